"""Data sets of Hugging Face's ``datasets``: pictures or texts, and their labels."""

from __future__ import annotations

from collections.abc import Sequence

from torch.utils.data import Dataset

from lightning_modules.data.base import DATAMODULES, DataModule
from lightning_modules.data.images.base import AugmentedDataModule
from lightning_modules.data.images.folder import EvalImages, TrainImages
from lightning_modules.data.labels import Label, label_reader
from lightning_modules.data.rows.labels import is_unlabelled, read_labels
from lightning_modules.data.rows.pictures import Pictures
from lightning_modules.data.rows.splits import Split, choose_splits, load_splits
from lightning_modules.data.rows.texts import RowItems, check_texts
from lightning_modules.data.sampling import EpochSampler
from lightning_modules.data.splits import split_off
from lightning_modules.data.texts.base import TextDataModule, TextItems
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.terminal import tell


@DATAMODULES.register("hf")
class HFDataModule(AugmentedDataModule, TextDataModule):
    """A data set of the ``datasets`` library, of pictures or of texts.

    Rows stay on disk, and one is read when its turn comes. The labels are a
    ``datasets.ClassLabel``, which knows the names of its classes; or strings, whole numbers or
    truth values, of which the classes are those of train, sorted. Pictures are
    ``datasets.Image``, the bytes of files, or arrays of 0 to 255. Several labels are a list of
    these, a text in which ``label_separator`` parts them, or a column of 0 and 1 each. Numbers are
    a column each.

    Args:
        path: a folder that `save_to_disk` has written, a .parquet file, a folder or a glob pattern
            of them, or the id of a data set on the hub.
        name: the configuration of a data set that has several.
        train: the split to train on.
        val: the split to validate on. None: "validation", or where there is none, a fifth of the
            samples of train, of every class; see `split_off`.
        test: the split to test on. None: "test", or where there is none with labels, val.
        image_column: the column of the pictures.
        text_column: that of the texts. Without either it is "image" or "text".
        label_column: that of the labels; or several, one a label (of 0 and 1) or a number.
        label_separator: what parts several labels in a text.
        options: those of AugmentedDataModule and of TextDataModule. What is said of pictures does
            nothing for texts, nor the other way around.

    Raises:
        FileNotFoundError: there are no data.
        ValueError: an argument is out of its range.
        InputError: ``datasets`` is not installed; a split, a column, a picture, a text or a label
            is missing, or is not as described; or, when a sample is read: it is no image.
    """

    tasks = ("multiclass", "multilabel", "regression")

    def __init__(
        self,
        path: str,
        *,
        name: str | None = None,
        train: str = "train",
        val: str | None = None,
        test: str | None = None,
        image_column: str | None = None,
        text_column: str | None = None,
        label_column: str | list[str] = "label",
        label_separator: str = "|",
        **options,
    ) -> None:
        super().__init__(**options)
        reader = label_reader(self.task, label_column, label_separator)
        splits = choose_splits(
            path, load_splits(path, name), {"train": train, "val": val, "test": test}
        )
        self.column, self.is_text = find_column(splits["train"], image_column, text_column)
        for split in splits.values():
            check_columns(split, self.column, reader.columns)
        if test is None and "test" in splits and is_unlabelled(splits["test"], reader.columns):
            tell(f"{splits.pop('test').where}: no row has a label, so it is left out")
        found = {option: read_labels(split, reader) for option, split in splits.items()}
        self.class_names = found["train"].classes()
        labels = {option: x.numbers(self.class_names) for option, x in found.items()}
        rows = {option: range(len(x)) for option, x in labels.items()}
        if "val" not in splits:
            where = f"data.path {path}"
            rows["train"], rows["val"] = split_off(labels["train"], self.seed, where, self.task)
            splits["val"], labels["val"] = splits["train"], labels["train"]
        make = self._texts if self.is_text else self._pictures
        made = {
            option: make(option, split, labels[option], rows[option])
            for option, split in splits.items()
        }
        self.train_dataset, self.val_dataset = made["train"], made["val"]
        if "test" not in made:
            tell(f"data.path {path}: no test split, so val serves as test")
        self.test_dataset = made.get("test", self.val_dataset)
        if self.is_text:
            self.make_inputs()

    def _pictures(
        self, option: str, split: Split, labels: Sequence[Label], rows: Sequence[int]
    ) -> Dataset:
        read = Pictures(split, self.column)
        samples = [(row, labels[row]) for row in rows]
        if option == "train":
            return TrainImages(samples, self.train_transform, self.seed, read)
        return EvalImages(samples, self.eval_transform, read=read)

    def _texts(
        self, option: str, split: Split, labels: Sequence[Label], rows: Sequence[int]
    ) -> Dataset:
        check_texts(split, self.column)
        return TextItems(RowItems(split, self.column, labels, rows))

    # What pictures and texts do each in their own way.

    def annotated(self, dataset: Dataset) -> str:
        return ""

    def mask_train(self, instead: str = "guidance=null") -> None:
        DataModule.mask_train(self, instead)  # neither pictures nor texts have any

    def example(self) -> list[str]:
        return (TextDataModule if self.is_text else AugmentedDataModule).example(self)

    def take_inputs(self, input_config: dict) -> None:
        (TextDataModule if self.is_text else DataModule).take_inputs(self, input_config)

    def train_sampler(self) -> EpochSampler:
        return (TextDataModule if self.is_text else DataModule).train_sampler(self)


def find_column(
    split: Split, image_column: str | None, text_column: str | None
) -> tuple[str, bool]:
    """The column of the pictures or of the texts, and whether it is one of texts.

    Raises:
        InputError: both are given; or neither is, and the data have no column "image" or "text",
            or both.
    """
    columns = split.rows.column_names
    if image_column is None and text_column is None:
        image_column, text_column = (x if x in columns else None for x in ("image", "text"))
    if (image_column is None) == (text_column is None):
        problem = "no column of pictures or texts" if image_column is None else "columns of both"
        raise InputError(
            f"{split.where}: {problem}; accepted: data.image_column= or data.text_column=, one of "
            + ", ".join(columns)
        )
    return image_column or text_column, image_column is None


def check_columns(split: Split, column: str, of_labels: Sequence[str]) -> None:
    """Raises an InputError where a split has no rows, or lacks a column or has one for both."""
    columns = split.rows.column_names
    for name in (column, *of_labels):
        if name not in columns:
            accepted = ", ".join(columns)
            raise InputError(f"{split.where}: no column {name!r}; accepted: one of {accepted}")
    if column in of_labels:
        raise InputError(
            f"data.label_column: {column!r} is not its own label; accepted: another column"
        )
    if len(split.rows) == 0:
        raise InputError(f"{split.where}: no rows; accepted: a split with some")
