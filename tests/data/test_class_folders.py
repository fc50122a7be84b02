"""Class folders, folders of masks and what people's systems leave between them."""

import errno
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets.folder import make_dataset

from lightning_modules.data import DATAMODULES, ImageFolderDataModule, folders
from lightning_modules.data.folders import NAMED, files_in
from lightning_modules.data.images import class_folders
from tests.helpers.samples import message_of, save

LEFT_BEHIND = [
    *(".ipynb_checkpoints/0-checkpoint.png", "__MACOSX/0.png", "@eaDir/0.png", ".hidden/a/0.png"),
    *("._0.png", ".DS_Store", "Thumbs.db", "desktop.ini", "Desktop.ini"),
]


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """The lines that are said about a data set."""
    lines = []
    for module in (folders, class_folders):
        monkeypatch.setattr(module, "tell", lines.append)
    return lines


@pytest.fixture
def root(tmp_path):
    """Two classes with two images each, in three splits."""
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            for number in range(2):
                save(tmp_path / split / name / f"{number}.png", np.zeros((9, 9, 3), np.uint8))
    return tmp_path


def folder(root) -> ImageFolderDataModule:
    return ImageFolderDataModule(str(root), num_workers=0, image_size=32)


def paths(dataset) -> list[str]:
    return [path for path, _ in dataset.samples]


def leave_behind(place) -> None:
    """Hidden files and folders, which hold images that could be read."""
    for name in LEFT_BEHIND:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(place / name, format="png")


def test_what_is_hidden_is_neither_class_nor_sample_nor_mask(root, said):
    for split in ("val", "test"):
        save(root / "masks" / split / "cat" / "0.png", np.ones((9, 9), np.uint8))
    before = folder(root)
    told = said.copy()
    for place in ("train", "val", "test", "train/cat", "val/dog", "masks", "masks/val/cat"):
        leave_behind(root / place)
    after = folder(root)
    assert after.class_names == ["cat", "dog"]
    for name in ("train_dataset", "val_dataset", "test_dataset"):
        assert paths(getattr(after, name)) == paths(getattr(before, name))
    assert after.val_dataset.masks == before.val_dataset.masks
    assert said == 2 * told and len(told) == 1  # of the masks alone


def test_what_is_hidden_is_not_of_imagenet(tmp_path, said):
    save(tmp_path / "n02123045" / "a.JPEG", np.zeros((9, 9, 3), np.uint8))
    for place in (tmp_path, tmp_path / "n02123045"):
        leave_behind(place)
    data = DATAMODULES["imagenet"](str(tmp_path), image_size=16)
    assert paths(data.test_dataset) == [str(tmp_path / "n02123045" / "a.JPEG")]
    assert not said


def test_a_folder_may_lie_in_a_hidden_one(root):
    hidden = root / ".cache" / "data"
    for split in ("train", "val"):
        shutil.move(root / split, hidden / split)
    assert len(folder(hidden).train_dataset) == 4


def test_class_folders_and_imagenet_take_every_ending(root, tmp_path, said):
    image = Image.new("RGB", (16, 16), "red")
    endings = ["jfif", "jpe", "gif", "avif", "jp2", "tiff", "qoi", "tga", "ico", "ppm", "WEBP"]
    for number, ending in enumerate(endings):
        save(root / "train" / "cat" / "more" / f"{number}.{ending}", image)
        save(tmp_path / "imagenet" / "n02123045" / f"{number}.{ending}", image)
    assert len(folder(root).train_dataset) == 4 + len(endings)
    data = DATAMODULES["imagenet"](str(tmp_path / "imagenet"), image_size=16)
    assert len(data.test_dataset) == len(endings)
    assert all(data.test_dataset[i]["image"][0].mean() > 0 for i in range(len(endings)))
    assert not said


def test_what_is_no_image_of_a_class_is_counted_and_named_in_one_line(root, said):
    names = ["train/lost.png", "train/cat/a.psd", "train/dog/b.xml", "val/c.csv", "test/dog/d"]
    for name in names:
        (root / name).write_bytes(b"")
    data = folder(root)
    assert len(data.train_dataset) == 4
    (line,) = said
    assert line.startswith(f"{root}: left out 5 files: {', '.join(names[:NAMED])} and 2 more; ")
    assert " .heic" in line or ".ico)" in line
    for name in names[1:]:
        (root / name).unlink()
    folder(root)
    assert said[1].startswith(f"{root}: left out 1 file: train/lost.png; taken are images of a cl")


def test_imagenet_names_what_is_no_image(tmp_path, said):
    save(tmp_path / "n02123045" / "a.JPEG", np.zeros((9, 9, 3), np.uint8))
    for name in ("solution.csv", "n02123045/a.xml"):
        (tmp_path / name).write_text("")
    DATAMODULES["imagenet"](str(tmp_path), image_size=16)
    assert said[0].startswith(f"{tmp_path}: left out 2 files: solution.csv, n02123045/a.xml; ")


def test_samples_come_in_the_order_that_runs_of_before_have_seen(tmp_path):
    """torchvision's: by class, then by folder, then by name."""
    names = ["cat/b", "cat/B", "cat/sub/a", "cat/sub-2/a", "cat/sub/sub/a", "cat-2/a", "cat-2/0"]
    for name in names:
        save(tmp_path / f"{name}.png", np.zeros((9, 9), np.uint8))
    samples, _ = class_folders.find_samples(tmp_path, ["cat", "cat-2"])
    assert samples == make_dataset(str(tmp_path), {"cat": 0, "cat-2": 1}, (".png",))
    assert len(samples) == len(names)


def test_links_are_followed_but_not_in_circles(tmp_path):
    save(tmp_path / "elsewhere" / "b.png", np.zeros((9, 9), np.uint8))
    save(tmp_path / "here" / "a.png", np.zeros((9, 9), np.uint8))
    (tmp_path / "here" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "here" / "itself").symlink_to(tmp_path / "here")
    found = [os.path.relpath(file, tmp_path / "here") for file in files_in(tmp_path / "here")]
    assert found == ["a.png", "linked/b.png"]


def test_a_folder_that_cannot_be_read_is_told(root, monkeypatch):
    """Its images would be missing."""
    locked, scandir = str(root / "train" / "dog" / "locked"), os.scandir

    def refuse(path):
        if str(path) == locked:
            raise PermissionError(errno.EACCES, "Permission denied", locked)
        return scandir(path)

    os.mkdir(locked)
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError) as raises:
        folder(root)
    message_of(raises, f"{locked}: Permission denied")


# ----------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("ending", ["png", "PNG", "jpg", "jpeg", "bmp", "tif", "gif", "webp"])
def test_a_mask_is_found_by_its_stem_whatever_its_ending(root, ending, said):
    mask = np.zeros((9, 9), np.uint8)
    mask[:5] = 255
    save(root / "masks" / "val" / "dog" / f"1.{ending}", mask)
    data = folder(root)
    assert [sample["has_mask"] for sample in data.val_dataset] == [False, False, False, True]
    sample = data.val_dataset[3]
    assert sample["mask"][:12].all() and not sample["mask"][20:].any()
    assert said == [
        f"{root / 'masks'}: there are masks of 1 of 4 samples of val, 0 of 4 samples of test"
    ]
    assert "mask" not in data.test_dataset[0] and "has_mask" not in data.test_dataset[0]


def test_a_stem_may_have_dots_and_lie_in_a_folder_of_its_class(root):
    save(root / "val" / "cat" / "new" / "a.b.c.png", np.zeros((9, 9, 3), np.uint8))
    save(root / "masks" / "val" / "cat" / "new" / "a.b.c.tif", np.full((9, 9), 255, np.uint8))
    save(root / "masks" / "val" / "cat" / "new" / "a.b.tif", np.zeros((9, 9), np.uint8))
    masked = [sample["mask"].all() for sample in folder(root).val_dataset if sample["has_mask"]]
    assert masked == [True]


def test_without_a_folder_of_masks_nothing_is_said_of_them(root, said):
    assert folder(root).val_dataset[0].keys() == {"image", "label"} and not said


@pytest.mark.parametrize(
    "name",
    [
        "masks/val/cat/9.png",
        "masks/val/cat/0_mask.png",
        "masks/cat/0.png",
        "masks/val/cat/0.npy",
        "masks/.DS_Store",
    ],  # fmt: skip
)
def test_masks_of_no_sample_are_an_error_that_shows_where_they_were_looked_for(root, name):
    (root / name).parent.mkdir(parents=True)
    Image.new("L", (9, 9)).save(root / name, format="png")
    with pytest.raises(ValueError) as raises:
        folder(root)
    looked_for = (f"{root / 'masks' / split / 'cat' / '0'}.* for {root / split / 'cat' / '0.png'}"
                  for split in ("val", "test"))  # fmt: skip
    message_of(raises, f"{root / 'masks'}: no sample of val or test has a mask", *looked_for)


def test_two_masks_of_an_image_are_refused(root):
    for ending in ("jpg", "png"):
        save(root / "masks" / "val" / "cat" / f"0.{ending}", np.ones((9, 9), np.uint8))
    with pytest.raises(ValueError) as raises:
        folder(root)
    masks = (root / "masks" / "val" / "cat" / f"0.{ending}" for ending in ("jpg", "png"))
    message_of(raises, *masks, "two masks", root / "val" / "cat" / "0.png")


def test_a_mask_of_two_images_is_refused(root):
    save(root / "val" / "cat" / "0.jpg", np.zeros((9, 9, 3), np.uint8))
    save(root / "masks" / "val" / "cat" / "0.png", np.ones((9, 9), np.uint8))
    with pytest.raises(ValueError) as raises:
        folder(root)
    images = (root / "val" / "cat" / f"0.{ending}" for ending in ("jpg", "png"))
    message_of(raises, root / "masks" / "val" / "cat" / "0.png", "two images", *images)
