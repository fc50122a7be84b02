"""Images in tar files, in WebDataset's layout, read as if they lay in folders."""

import os

from lightning_modules.data.base import DATAMODULES
from lightning_modules.data.images.base import AugmentedDataModule
from lightning_modules.data.images.folder import EvalImages, TrainImages
from lightning_modules.data.images.shards import (
    Member,
    find_shards,
    index_shards,
    read_picture,
)
from lightning_modules.data.labels import Label, LabelReader, label_reader
from lightning_modules.data.splits import split_off
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.terminal import tell


@DATAMODULES.register("image_tars")
class ImageTarsDataModule(AugmentedDataModule):
    """Images in tar files, a picture `KEY.jpg` beside its label, `KEY.cls` or `KEY.json`.

    The shards are indexed once, at the start; a picture is read when its turn comes. Samples are
    in the order that they would have in folders, by class and then by name, so that they are
    shuffled and augmented, and a run goes on, as with ImageFolderDataModule. A label is a name or
    a whole number, and the classes are those of train, sorted. Several labels are a list in
    KEY.json, a text in which ``label_separator`` parts them, or a name of 0 or 1 each; numbers are
    a name each. Pictures are files of IMAGE_ENDINGS; what else is in a shard is left out, and told.
    See `read_image`.

    Args:
        train: a .tar file, a folder of them, or a glob pattern.
        val: as train. None: a fifth of the samples of train, of every class; see `split_off`.
        test: as train. None: val serves as test.
        label_key: the name that an object in KEY.json has for the label or the list of labels; or
            the names of several, one a label (of 0 and 1) or a number.
        label_separator: what parts several labels in a text.
        options: those of AugmentedDataModule.

    Raises:
        FileNotFoundError: there is no shard.
        ValueError: an argument is out of its range, or a shard is compressed.
        InputError: a shard is broken or of two splits; a picture has no label, or a label no
            picture; a key has two; val or test has a label that train lacks; or, when a sample is
            read: it is no image.
    """

    tasks = ("multiclass", "multilabel", "regression")

    def __init__(
        self,
        train: str,
        val: str | None = None,
        test: str | None = None,
        label_key: str | list[str] = "label",
        label_separator: str = "|",
        **options,
    ) -> None:
        super().__init__(**options)
        reader = label_reader(self.task, label_key, label_separator, option="label_key")
        given = {"train": train, "val": val, "test": test}
        shards = {split: find_shards(split, name) for split, name in given.items() if name}
        check_apart(shards)
        rows = {split: read_rows(paths, reader) for split, paths in shards.items()}
        self.class_names = reader.class_names(rows["train"])
        samples = {
            split: in_order(reader.labelled(rows[split], self.class_names)) for split in rows
        }
        if val is None:
            labels = [label for _, label in samples["train"]]
            parts = split_off(labels, self.seed, f"data.train {train}", self.task)
            samples["train"], samples["val"] = (
                [samples["train"][index] for index in part] for part in parts
            )
        self.train_dataset = TrainImages(
            samples["train"], self.train_transform, self.seed, read_picture
        )
        evaluated = {
            split: EvalImages(samples[split], self.eval_transform, read=read_picture)
            for split in ("val", "test")
            if split in samples
        }
        if "test" not in evaluated:
            tell("test is null, so val serves as test")
        self.val_dataset = evaluated["val"]
        self.test_dataset = evaluated.get("test", self.val_dataset)

    def annotated(self, dataset: EvalImages) -> str:
        return ""


def check_apart(shards: dict[str, list[str]]) -> None:
    """Raises an InputError where a shard of train is one of val or test, too."""
    trained = {os.path.realpath(path): path for path in shards["train"]}
    for split in ("val", "test"):
        for path in shards.get(split, ()):
            if os.path.realpath(path) in trained:
                raise InputError(
                    f"{path}: a shard of train and of {split}; accepted: shards of one of them"
                )


def read_rows(shards: list[str], reader: LabelReader) -> list[tuple[str, dict]]:
    """(file and key, picture and label by name) of every sample, as ``reader`` has its rows."""
    return [
        (str(member), {"picture": member, "label": label})
        for member, label in index_shards(shards, reader)
    ]


def in_order(items: list[dict]) -> list[tuple[Member, Label]]:
    """(picture, label) of every sample, by class if there is one, folder, name and shard."""
    samples = [(item["picture"], item["label"]) for item in items]

    def place(sample: tuple[Member, Label]) -> tuple:
        picture, label = sample
        return (label if isinstance(label, int) else 0, *os.path.split(picture.name), picture.shard)

    return sorted(samples, key=place)
