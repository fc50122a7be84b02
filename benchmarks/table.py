"""The one table of a run, in Markdown; a section stands there as soon as it has been measured."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

COLUMNS = ("measured", "ms", "ratio (quartiles)", "peak MiB (ratio)", "notes")
WIDTHS = (44, 10, 22, 16, 1)


class Table:
    """Prints its rows. What a ratio is over stands in the row that opens a section."""

    def __init__(self) -> None:
        self._line(*COLUMNS)
        self._line(*("-" * len(column) for column in COLUMNS))

    def _line(self, *cells: str) -> None:
        inline = (" ".join(cell.split()).replace("|", "\\|") for cell in cells)
        padded = (cell.ljust(width) for cell, width in zip(inline, WIDTHS, strict=True))
        print("|", " | ".join(padded), "|", flush=True)

    def section(self, title: str, notes: str = "") -> None:
        self._line(f"**{title}**", "", "", "", notes)

    def row(
        self,
        what: str,
        times: Sequence[float] = (),
        of: Sequence[float] = (),
        memory: tuple[int, int] | None = None,
        notes: str = "",
        digits: int = 2,
    ) -> None:
        """``times``: seconds, round by round, and those ``of`` what the ratio is over; ``memory``:
        peak bytes, and those that the ratio is over."""
        taken = f"{1e3 * statistics.median(times):,.1f}" if times else ""
        ratio = ratios(times, of, digits) if of else ""
        peak = f"{memory[0] / 2**20:,.0f} ({memory[0] / memory[1]:.2f})" if memory else ""
        self._line(what, taken, ratio, peak, notes)


def ratios(times: Sequence[float], of: Sequence[float], digits: int) -> str:
    """Median and quartiles of the ratios, round by round."""
    each = [time / other for time, other in zip(times, of, strict=True)]
    if len(each) == 1:
        return f"{each[0]:.{digits}f}"
    low, middle, high = statistics.quantiles(each, n=4, method="inclusive")
    return f"{middle:.{digits}f} ({low:.{digits}f} - {high:.{digits}f})"
