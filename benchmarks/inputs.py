"""How memory grows with the number of inputs of explain.py: python -m benchmarks.inputs [COUNT ...]

Each count is explained in a process of its own, in which the libraries are loaded before memory is
watched: small pictures, a tiny ViT, two methods, every file but the pictures. The slope is that of
peak memory between the least and the most inputs.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import peak_memory
from lightning_modules import ViTClassifier
from lightning_modules.data import DigitsDataModule
from lightning_modules.explanations.call import Call
from lightning_modules.explanations.inputs import find_inputs
from lightning_modules.explanations.many import explain_all
from lightning_modules.explanations.targets import Targets
from lightning_modules.protocols.shard import ALONE

COUNTS = (500, 1000, 2000)
SIDE = 32  # pixels of a picture
METHODS = ["transformer_attribution", "lrp"]
FORMATS = ["html", "npz", "json"]


def explaining(count: int, folder: str, seed: int = 0) -> Callable[[], object]:
    """What explains so many pictures, which are made before, into a folder."""
    pictures = Path(folder, "pictures")
    pictures.mkdir()
    random = np.random.default_rng(seed)
    for number in range(count):
        picture = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(picture).save(pictures / f"{number:06d}.png")
    data = DigitsDataModule(train_size=4, val_size=4, test_size=4, pairs_size=4)
    module = ViTClassifier(data.class_names, data.input_config, "test_vit")
    targets = Targets(["top2"], module.task)
    about = {"title": "Why?", "model": "none", "options": {}}
    call = Call(module.eval(), targets, METHODS, {}, None, FORMATS, {}, about)
    inputs = find_inputs([str(pictures)], [], module.sources)

    def run() -> None:
        with redirect_stdout(io.StringIO()):
            explain_all(call, inputs, Path(folder, "explained"), False, ALONE)

    return run


def measured(counts: tuple[int, ...]) -> list[tuple[int, int, float]]:
    """Of each count the peak of memory in bytes, and the seconds, with what is made before."""
    found = []
    for count in counts:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            peak = peak_memory(explaining, count, folder)
        found.append((count, peak, time.perf_counter() - began))
    return found


def main(words: list[str]) -> None:
    counts = tuple(map(int, words)) or COUNTS
    print("| inputs | peak MiB | seconds |\n| --- | --- | --- |")
    rows = measured(counts)
    for count, peak, seconds in rows:
        print(f"| {count:,} | {peak / 2**20:,.0f} | {seconds:,.0f} |")
    (fewest, least, _), (most, highest, _) = rows[0], rows[-1]
    if most > fewest:
        print(f"\n{(highest - least) / (most - fewest) / 1024:.1f} KiB an input")


if __name__ == "__main__":
    main(sys.argv[1:])
