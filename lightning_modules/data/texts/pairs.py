"""Two texts that are classified together, as a premise and a hypothesis."""

from __future__ import annotations

from dataclasses import dataclass

BETWEEN = "\n"  # what parts them where they are written as one


@dataclass(frozen=True)
class Pair:
    """Two texts that a model reads one after the other; places are in both, written as one."""

    first: str
    second: str

    def __str__(self) -> str:
        return f"{self.first}{BETWEEN}{self.second}"

    @property
    def start(self) -> int:
        """Where the second begins, in characters."""
        return len(self.first) + len(BETWEEN)

    @classmethod
    def at(cls, text: str, start: int) -> Pair:
        """The pair that is written as ``text``, whose second begins at ``start``."""
        return cls(text[: start - len(BETWEEN)], text[start:])
