"""Images and masks on disk: where they lie, and reading them whatever their mode and rotation.

root/train/<class>/*   the classes are the folders of train, sorted by name
root/val/<class>/*     no class that train lacks
root/test/<class>/*    optional
root/masks/<split>/<class>/<same stem>.png
                       optional, for val and test: not zero on the object
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from lightning_modules.errors import InputError

LAYOUT = f"root/train/<class>/<image> and root/val/<class>/<image> ({' '.join(IMG_EXTENSIONS)})"


def find_classes(split_folder: Path) -> list[str]:
    """Sorted names of the class folders of a split.

    Raises:
        FileNotFoundError: there is no such folder, or no class folder in it.
    """
    if not split_folder.is_dir():
        raise FileNotFoundError(f"{split_folder}: no such folder; accepted: {LAYOUT}")
    names = sorted(entry.name for entry in split_folder.iterdir() if entry.is_dir())
    if not names:
        raise FileNotFoundError(f"{split_folder}: no class folders; accepted: {LAYOUT}")
    return names


def find_samples(split_folder: Path, class_names: list[str]) -> list[tuple[str, int]]:
    """(path, label) of every image of a split, by class and then by path.

    Raises:
        FileNotFoundError: there is no such folder, or no image in it.
        ValueError: the split has a class folder that is not in `class_names`.
    """
    labels = {name: label for label, name in enumerate(class_names)}
    for name in find_classes(split_folder):
        if name not in labels:
            raise ValueError(
                f"{split_folder / name}: unknown class; accepted: the classes of train"
            )
    samples = make_dataset(str(split_folder), labels, IMG_EXTENSIONS, allow_empty=True)
    if not samples:
        raise FileNotFoundError(f"{split_folder}: no images; accepted: {LAYOUT}")
    return samples


def read_image(path: str | Path) -> Image.Image:
    """The picture in a file as a person sees it: upright (EXIF) and RGB, whatever its mode.

    16-bit greys keep their range (65535 becomes 255); an alpha channel is dropped.

    Raises:
        InputError: the file is no image that can be read, or has floating-point pixels.
    """
    image = _read_upright(path)
    if image.mode == "F":
        raise InputError(f"{path}: floating-point pixels; accepted: 8-bit and 16-bit images")
    if image.mode.startswith("I"):  # 16-bit grey, of which Pillow's convert makes plain white
        image = Image.fromarray((np.asarray(image) // 256).clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


def read_mask(path: str | Path) -> Image.Image:
    """The mask in a file as an image of mode "L": 255 where the file is not zero, 0 elsewhere.

    Not zero means any palette index, grey value or colour but 0; an alpha channel is not looked at.

    Raises:
        InputError: the file is no image that can be read.
    """
    image = _read_upright(path)
    values = np.asarray(image if len(image.getbands()) == 1 else image.convert("RGB"))
    is_object = np.atleast_3d(values).any(axis=2)
    return Image.fromarray(is_object.astype(np.uint8) * 255)


def _read_upright(path: str | Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them raise
        raise InputError(
            f"{path}: cannot be read ({error}); accepted: {' '.join(IMG_EXTENSIONS)}"
        ) from error
