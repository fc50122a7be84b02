"""Texts in the rows of a split, read from disk when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lightning_modules.data.labels import Label
from lightning_modules.data.rows.splits import Split
from lightning_modules.utils.errors import InputError

TOGETHER = 1000  # rows that are read at once where all are


class RowItems(Sequence):
    """The items of TextDataModule, made of rows of a split.

    Attributes:
        labels: of its items.

    Args:
        split: the split.
        column: of the texts.
        labels: of all rows.
        rows: the numbers of those that are its items.
    """

    def __init__(
        self, split: Split, column: str, labels: Sequence[Label], rows: Sequence[int]
    ) -> None:
        self.dataset = split.rows.select_columns([column])
        self.column, self.rows = column, rows
        self.labels = [labels[row] for row in rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        return self._item(self.dataset[self.rows[index]][self.column], self.labels[index])

    def __iter__(self) -> Iterator[dict]:
        for start in range(0, len(self), TOGETHER):
            rows = self.rows[start : start + TOGETHER]
            texts = self.dataset[rows][self.column]
            yield from map(self._item, texts, self.labels[start : start + TOGETHER])

    def _item(self, text: str, label: Label) -> dict:
        return {"text": text, "label": label, "rationale": None}


def check_texts(split: Split, column: str) -> None:
    """Raises an InputError where a column has no texts, or a row none."""
    import pyarrow.compute

    feature = split.rows.features[column]
    if getattr(feature, "dtype", None) not in ("string", "large_string"):
        raise InputError(f"{split.where}: {column} is {feature}; accepted: a column of strings")
    batches = split.rows.select_columns([column]).with_format("arrow").iter(TOGETHER)
    for number, batch in enumerate(batches):
        texts = batch.column(column)
        blank = pyarrow.compute.equal(pyarrow.compute.utf8_trim_whitespace(texts), "")
        blank = blank.fill_null(True).to_numpy()
        if blank.any():
            inside = int(blank.argmax())
            row, text = number * TOGETHER + inside, texts[inside].as_py()
            raise InputError(f"{split.where}, row {row}: {column} is {text!r}; accepted: a text")
