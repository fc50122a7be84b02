"""Runs a function over names in processes of their own, so that a crash is one name's alone."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait


class _Worker:
    """A process that takes one name at a time."""

    def __init__(self, work: Callable[[str], object]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, far = context.Pipe()
        self.process = context.Process(target=_serve, args=(far, work), daemon=True)
        self.process.start()
        far.close()
        self.name: str | None = None
        self.started = 0.0

    def give(self, name: str) -> None:
        self.name, self.started = name, time.monotonic()
        self.connection.send(name)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(connection: Connection, work: Callable[[str], object]) -> None:
    while True:
        try:
            name = connection.recv()
        except EOFError:
            return
        connection.send(work(name))


def run(
    work: Callable[[str], object], names: Sequence[str], processes: int, limit: float
) -> Iterator[tuple[str, object]]:
    """Each name with what ``work`` returns for it, as they end.

    Where its process died or took more than ``limit`` seconds: with a sentence that says so.
    """
    left = list(reversed(names))
    workers = [_Worker(work) for _ in range(min(processes, len(names)))]
    try:
        for worker in workers:
            worker.give(left.pop())
        while workers:
            wait([worker.connection for worker in workers], timeout=1.0)
            for worker in list(workers):
                ended = _result(worker, limit)
                if ended is None:
                    continue
                name, result, alive = worker.name, *ended
                if not alive or not left:
                    worker.end()
                    workers.remove(worker)
                    worker = _Worker(work) if left else None
                    workers += [worker] if worker else []
                if left:
                    worker.give(left.pop())
                yield name, result
    finally:
        for worker in workers:
            worker.end()


def _result(worker: _Worker, limit: float) -> tuple[object, bool] | None:
    """What came back, and whether the process lives; None while it works."""
    try:
        if worker.connection.poll():
            return worker.connection.recv(), True
    except (EOFError, OSError):
        worker.process.join()
        return f"the process ended with code {worker.process.exitcode}", False
    if time.monotonic() - worker.started > limit:
        return f"took more than {limit:.0f} s", False
    return None
