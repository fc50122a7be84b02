"""The Stanford Sentiment Treebank: sentences, and a human label on every word of them."""

import re
from pathlib import Path

from lightning_modules.data.base import DATAMODULES
from lightning_modules.data.texts.base import TextDataModule, TextItems
from lightning_modules.data.texts.files import read_lines
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.options import PathThere
from lightning_modules.utils.terminal import tell

ACCEPTED = "trees like (3 (2 A) (3 (4 great) (2 film))), labels from 0 to 4, one a line"
# The files have stray spaces, and no-break spaces within words.
LEAF = re.compile(r"\(([0-4]) +([^ ()]+) *\)")
FOLDED = "\n"  # what stands for a subtree: no line has it
NODE = re.compile(rf"\([0-4](?: *{FOLDED})+ *\)")
NEUTRAL = 2
# How a treebank writes what has a meaning in a tree or in its annotators' tools.
ESCAPED = {
    "-LRB-": "(",
    "-RRB-": ")",
    "-LSB-": "[",
    "-RSB-": "]",
    "-LCB-": "{",
    "-RCB-": "}",
    "``": '"',
    "''": '"',
}


def read_trees(path: Path) -> list[dict]:
    """The items of a file; see SSTDataModule.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: the file is empty or not UTF-8, a line is no tree, or all trees are neutral.
    """
    items = []
    for number, line in read_lines(path, ACCEPTED):
        line = line.strip()
        if not is_tree(line):
            raise InputError(f"{path}, line {number}: no tree; accepted: {ACCEPTED}")
        label = int(line[1])
        if label != NEUTRAL:
            items.append(make_item(label, LEAF.findall(line)))
    if not items:
        raise InputError(f"{path}: all trees are neutral; accepted: {ACCEPTED}")
    return items


def is_tree(line: str) -> bool:
    """Whether a line folds up, from the leaves to the root."""
    folded, changes = LEAF.subn(FOLDED, line)
    while changes:
        folded, changes = NODE.subn(FOLDED, folded)
    return folded == FOLDED


def make_item(label: int, leaves: list[tuple[str, str]]) -> dict:
    """The item of a sentence that is not neutral; leaves are (label from "0" to "4", word)."""
    positive = label > NEUTRAL
    text, rationale = "", []
    for leaf_label, word in leaves:
        word = ESCAPED.get(word, word).replace("\\/", "/").replace("\\*", "*")
        text += " " * bool(text)
        if int(leaf_label) != NEUTRAL and (int(leaf_label) > NEUTRAL) == positive:
            rationale.append((len(text), len(text) + len(word)))
        text += word
    return {"text": text, "label": int(positive), "rationale": rationale}


@DATAMODULES.register("sst")
class SSTDataModule(TextDataModule):
    """The sentences of the Stanford Sentiment Treebank that are not neutral; binary labels.

        root/train.txt, root/dev.txt   trees in Penn format, one a line
        root/test.txt                  optional: without it, dev serves as test

    The rationale of a sentence is the words that humans, who saw them alone, gave a label in the
    direction of the sentence's.

    Args:
        root: folder of the data set.
        options: those of TextDataModule.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: an argument is out of its range.
        InputError: a file is not as described; names file and line.
    """

    def __init__(self, root: PathThere, *, max_length: int = 80, **options) -> None:
        super().__init__(max_length=max_length, **options)
        folder = Path(root).expanduser()
        self.class_names = ["negative", "positive"]
        self.train_dataset = TextItems(read_trees(folder / "train.txt"))
        self.val_dataset = TextItems(read_trees(folder / "dev.txt"))
        if (folder / "test.txt").is_file():
            self.test_dataset = TextItems(read_trees(folder / "test.txt"))
        else:
            self.test_dataset = self.val_dataset
            tell(f"{folder / 'test.txt'}: no such file, so dev serves as test")
        self.make_inputs()
