"""Rows of a study, kept as they are measured."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import progress

Row = dict[str, Any]
Rows = list[Row]


class KeptRows:
    """Rows in a file of one JSON object a line; a second call goes on with those that it lacks.

    Args:
        path: the file; its folder is made.
        options: what all of them were measured with.

    Raises:
        SystemExit: the file is of other options.
    """

    def __init__(self, path: Path, options: list[str]) -> None:
        self.path, self.options = path, options
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines() if path.is_file() else []
        self.rows: Rows = [json.loads(line) for line in lines]
        if any(row["options"] != options for row in self.rows):
            raise SystemExit(f"{path} is of other --options; accepted: another --output")

    def of(self, wanted: Sequence[Row], figures: Callable[[Row], Row], what: str) -> Rows:
        """The rows that begin with each of ``wanted``, in its order.

        Args:
            wanted: the arm, the seed and what else tells a row from another.
            figures: measures what a row has beside that.
            what: is measured, for the progress.
        """
        lacking = [key for key in wanted if self._find(key) is None]
        for key in progress(lacking, what):
            row = {**key, "options": self.options, **figures(key)}
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            self.rows.append(row)
        return [row for key in wanted if (row := self._find(key)) is not None]

    def _find(self, key: Row) -> Row | None:
        return next((row for row in self.rows if key.items() <= row.items()), None)


def folder_name(*parts: str | float) -> str:
    """Of a run that is told by these: ``both, last block``, 0.3, 1 -> ``both-last-block-0.3-1``."""
    words = (f"{part:g}" if isinstance(part, float) else str(part) for part in parts)
    return re.sub(r"[ ,+]+", "-", "-".join(words))
