"""Small data sets in the layouts that train.py reads, made without a download.

python docs/examples/small_data.py FOLDER

digits/{train,val,test}/<class>/*.png  scikit-learn's handwritten digits, 32 x 32 pixels;
                                       train has a tenth of the digits 5 to 9
tars/{train,val,test}.tar              all digits, in WebDataset's layout
parquet/{train,val,test}.parquet       all digits, with the columns image and label; it takes
                                       pip install 'relprop[hf]', and is left out without it
questions/{train,val,test}.tsv         made-up reviews, each with a question and its answer
"""

import csv
import io
import json
import sys
import tarfile
from collections import Counter
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from lightning_modules.data.images.digits import Sources, split_sources

SIDE = 32
RARE = range(5, 10)
SIZES = {"train": 4000, "val": 400, "test": 400}
ASPECTS = ("acting", "music", "story", "ending", "camera", "humour", "dialogue", "pace")
GOOD = ("great", "lovely", "moving", "clever", "superb", "charming")
BAD = ("dull", "awful", "clumsy", "tired", "noisy", "hollow")


def png(ink: np.ndarray) -> bytes:
    """A digit [8, 8], 0 to 1, as a file."""
    picture = Image.fromarray((255 * ink).astype(np.uint8)).resize((SIDE, SIDE), Image.BICUBIC)
    file = io.BytesIO()
    picture.convert("RGB").save(file, "png")
    return file.getvalue()


def rare(digits: Iterable[int]) -> Iterable[bool]:
    """Which digits are left out, so that nine of ten of the classes in RARE are missing."""
    seen: Counter[int] = Counter()
    for digit in digits:
        seen[digit] += 1
        yield digit in RARE and seen[digit] % 10 != 1


def write_digits(folder: Path, split: str, source: Sources) -> None:
    order = source.classes.argsort(kind="stable")  # as folders and shards are read
    files, labels = [png(ink) for ink in source.ink[order]], source.classes[order].tolist()
    left_out = rare(labels) if split == "train" else [False] * len(labels)
    for number, (data, label, out) in enumerate(zip(files, labels, left_out, strict=True)):
        path = folder / "digits" / split / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not out:
            path.write_bytes(data)
    with tarfile.open(folder / "tars" / f"{split}.tar", "w") as tar:
        for number, (data, label) in enumerate(zip(files, labels, strict=True)):
            for ending, content in (("png", data), ("cls", str(label).encode())):
                entry = tarfile.TarInfo(f"{number:04d}.{ending}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    if find_spec("pyarrow"):
        from pyarrow import parquet, table

        pictures = [{"bytes": data, "path": None} for data in files]
        (folder / "parquet").mkdir(exist_ok=True)
        path = folder / "parquet" / f"{split}.parquet"
        parquet.write_table(table({"image": pictures, "label": labels}), path)


def question(rng: np.random.Generator) -> list[str]:
    """A review of three aspects, a question about one, the answer, and the word that gives it."""
    aspects = rng.choice(ASPECTS, 3, replace=False)
    answers = rng.integers(2, size=3)
    words = [str(rng.choice((BAD, GOOD)[answer])) for answer in answers]
    said = [f"the {aspect} was {word}" for aspect, word in zip(aspects, words, strict=True)]
    asked = rng.integers(3)
    text = f"{said[0]}, {said[1]} and {said[2]}."
    end = text.index(said[asked]) + len(said[asked])
    rationale = [[[end - len(words[asked]), end]], []]
    answer = ("bad", "good")[answers[asked]]
    return [text, f"how was the {aspects[asked]}?", answer, json.dumps(rationale)]


def write_questions(folder: Path, split: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    with (folder / "questions" / f"{split}.tsv").open("w", newline="") as file:
        rows = csv.writer(file, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE)
        rows.writerow(["text", "question", "label", "rationale"])
        rows.writerows(question(rng) for _ in range(SIZES[split]))


def main(folder: Path) -> None:
    for name in ("tars", "questions"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, (split, source) in enumerate(split_sources(seed=0).items()):
        write_digits(folder, split, source)
        write_questions(folder, split, seed=number)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
