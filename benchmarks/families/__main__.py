"""Which model families are explained, and whether rightly: python -m benchmarks.families

python -m benchmarks.families --kinds text pair
python -m benchmarks.families timm/swin_transformer text/T5 --output table.md

Writes docs/models.md; rows of what is not measured stay as they are. A family that crashes or
takes too long is a row that says so.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import track

from benchmarks import workers
from benchmarks.families import ENTRIES, KINDS, document
from benchmarks.families.measure import measure
from lightning_modules.utils.cli import Parser

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
LIMIT = 120.0  # seconds for one family


def parse():
    parser = Parser("python -m benchmarks.families", __doc__)
    parser.add_argument("names", nargs="*", metavar="KIND/NAME", help="(default: all)")
    parser.add_argument(
        "--kinds", nargs="+", choices=KINDS, default=KINDS, metavar="KIND", help=", ".join(KINDS)
    )
    parser.add_argument("--output", type=Path, default=PAGE, help="the page (default: %(default)s)")
    chosen = parser.parse_args()
    for name in chosen.names:
        if name not in ENTRIES:
            parser.error(f"family {name!r}; accepted: {', '.join(ENTRIES)}")
    chosen.names = chosen.names or [n for n, e in ENTRIES.items() if e.kind in chosen.kinds]
    return chosen


def main() -> None:
    chosen = parse()
    rows = document.read(chosen.output)
    measured = workers.run(measure, chosen.names, os.cpu_count() or 1, LIMIT)
    console = Console(stderr=True)
    try:
        for name, result in track(measured, "families", len(chosen.names), console=console):
            rows[name] = document.cells(name, result)
            document.write(chosen.output, rows)  # what is measured is kept, whatever comes
            print(f"{name}: {', '.join(filter(None, rows[name][2:7]))}", flush=True)
    except KeyboardInterrupt:
        print("python -m benchmarks.families: stopped; run it with the names that are left, what "
              f"was measured stands in {chosen.output}", file=sys.stderr)  # fmt: skip
        raise SystemExit(130) from None


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    main()
