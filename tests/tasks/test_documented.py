"""The table of tasks in docs/evaluate.md says what the code does."""

import re
from pathlib import Path

from lightning_modules.protocols import PROTOCOLS
from lightning_modules.tasks import TASKS


def ours(registry) -> dict:
    """What of a registry is of the package itself, and no other test's."""
    return {k: x for k, x in registry.items() if x.__module__.startswith("lightning_modules.")}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_each_task_and_protocol_is_in_the_table_of_tasks_as_it_is():
    section = Path("docs/evaluate.md").read_text().split("## Tasks\n")[1].split("\n## ")[0]
    header, _, monitored, *protocols = (
        cells(line) for line in section.splitlines() if line.startswith("|")
    )
    named = [re.fullmatch("`(.+)`", cell)[1] for cell in header[1:]]
    assert named == list(ours(TASKS))
    assert monitored[1:] == [f"`{task.monitor}`, {task.mode}" for task in ours(TASKS).values()]
    assert {row[0].strip("`") for row in protocols} == {*ours(PROTOCOLS)}
    for row in protocols:
        refused = [
            task
            for task, cell in zip(named, row[1:], strict=True)
            if re.match(r"refused: \w", cell)
        ]
        taken = PROTOCOLS[row[0].strip("`")].tasks
        assert refused == [task for task in named if task not in taken], row[0]
        assert all(row)
