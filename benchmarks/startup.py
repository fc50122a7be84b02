"""CPU seconds until a command answers without training or explaining: python -m benchmarks.startup

Each call is a process of its own; calls take turns. Beside them stands the import of Lightning, for
which nobody waits any more.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
ROUNDS = 5
CALLS = (
    ("train.py", "--help"),
    ("train.py", "--print-config"),
    ("train.py", "model.lrr=1"),
    ("train.py", "callbacks.EarlyStopping.monitorr=a"),
    ("train.py", "trainer.strategy=dpp"),
    ("train.py", "model.name=vit_tiny"),
    ("train.py", "guidance.method=nonsense"),
    ("train.py", "trainer.max_time=weeks"),
    ("train.py", "--config", "configs/graph_edges.yaml", "model.layers=PS"),
    ("explain.py", "--help"),
    ("explain.py", "evaluate", "--help"),
    ("explain.py", "--timm", "x", "--input", "a.png", "--method", "nonsense"),
    ("explain.py", "--timm", "deit", "--input", "README.md"),
    ("explain.py", "--timm", "deit_tiny_patch16_224", "--input", "nowhere"),
    ("-c", "import lightning"),
)


def cpu_seconds(words: tuple[str, ...]) -> float:
    """Of the process and of those that it starts."""
    before = os.times()
    subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True)
    after = os.times()
    return sum(
        getattr(after, name) - getattr(before, name)
        for name in ("children_user", "children_system")
    )


def main() -> None:
    found: dict[tuple[str, ...], list[float]] = {words: [] for words in CALLS}
    for _ in range(ROUNDS):
        for words in CALLS:
            found[words].append(cpu_seconds(words))
    print("| call | CPU seconds (least - most) |\n| --- | --- |")
    for words, seconds in found.items():
        call = " ".join(words)
        print(f"| `{call}` | {median(seconds):.2f} ({min(seconds):.2f} - {max(seconds):.2f}) |")


if __name__ == "__main__":
    main()
