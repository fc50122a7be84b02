"""Folders of images, a folder a class, and folders of their masks: where they lie.

root/train/<class>/*   the classes are the folders of train, sorted by name
root/val/<class>/*     no class that train lacks
root/test/<class>/*    optional
root/masks/<split>/<class>/<same stem>.*
                       optional
"""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from lightning_modules.data.folders import files_in, hidden, parted_by_ending
from lightning_modules.data.images.files import IMAGE_ENDINGS
from lightning_modules.data.labels import Label
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.terminal import tell

LAYOUT = f"root/train/<class>/<image> and root/val/<class>/<image> ({' '.join(IMAGE_ENDINGS)})"
SAMPLES = f"images of a class ({' '.join(IMAGE_ENDINGS)})"
Samples = list[tuple[str, Label]]  # (path, label) of each image


def find_classes(split_folder: Path, layout: str = LAYOUT) -> list[str]:
    """Sorted names of the class folders of a split; ``layout`` is what errors accept.

    Raises:
        FileNotFoundError: there is no such folder, or no class folder in it.
    """
    if not split_folder.is_dir():
        raise FileNotFoundError(f"{split_folder}: no such folder; accepted: {layout}")
    names = sorted(
        entry.name for entry in split_folder.iterdir() if entry.is_dir() and not hidden(entry.name)
    )
    if not names:
        raise FileNotFoundError(f"{split_folder}: no class folders; accepted: {layout}")
    return names


def find_classed(
    splits: Mapping[str, Path],
) -> tuple[list[str], dict[str, Samples], list[str]]:
    """Names of the classes, the samples of each split, and files that are no image of a class.

    Args:
        splits: folders by name, among them train.

    Raises:
        FileNotFoundError: see :func:`find_samples`; or a class of train has no images.
        ValueError: see :func:`find_samples`.
    """
    class_names = find_classes(splits["train"])
    found = {split: find_samples(folder, class_names) for split, folder in splits.items()}
    present = {label for _, label in found["train"][0]}
    for label, name in enumerate(class_names):
        if label not in present:
            raise FileNotFoundError(f"{splits['train'] / name}: no images; accepted: {LAYOUT}")
    samples = {split: of_split for split, (of_split, _) in found.items()}
    return class_names, samples, [path for _, others in found.values() for path in others]


def find_samples(
    split_folder: Path, class_names: list[str], layout: str = LAYOUT
) -> tuple[Samples, list[str]]:
    """(path, label) of every image of a split, by class and then by path; and what else lies there.

    ``layout`` is what errors accept.

    Raises:
        FileNotFoundError: there is no such folder, or no image in it.
        ValueError: the split has a class folder that is not in `class_names`.
    """
    labels = {name: label for label, name in enumerate(class_names)}
    samples, others = [], loose_files(split_folder)
    for name in find_classes(split_folder, layout):
        if name not in labels:
            raise ValueError(
                f"{split_folder / name}: unknown class; accepted: the classes of train"
            )
        images, more = find_images(split_folder / name)
        samples += [(path, labels[name]) for path in images]
        others += more
    if not samples:
        raise FileNotFoundError(f"{split_folder}: no images; accepted: {layout}")
    return samples, others


def loose_files(folder: Path) -> list[str]:
    """Paths of the files of a folder that are in none of its folders."""
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    return [str(entry) for entry in entries if entry.is_file() and not hidden(entry.name)]


def find_images(folder: Path) -> tuple[list[str], list[str]]:
    """Paths of the images in a folder and its folders, and of what else lies there."""
    return parted_by_ending(files_in(folder), IMAGE_ENDINGS)


def find_masks(root: Path, splits: Mapping[str, Samples]) -> dict[str, dict[str, str]]:
    """Of each split, the paths of the masks, by the path of their image.

    An image without a mask is not among them. Says how many samples of each split have one.

    Raises:
        InputError: an image has two masks, or a mask two images; or there is a folder `masks`, and
            no sample has one, nor are there masks of train.
    """
    masks = {split: _masks_of(root, split, samples) for split, samples in splits.items()}
    if not (root / "masks").is_dir():
        return masks
    if not any(masks.values()) and ("train" in splits or not (root / "masks" / "train").is_dir()):
        looked_for = " and ".join(
            f"{root / 'masks' / _stem(samples[0][0], root)}.* for {samples[0][0]}"
            for samples in splits.values()
        )
        raise InputError(
            f"{root / 'masks'}: no sample of {' or '.join(splits)} has a mask there; accepted: "
            f"{looked_for}, and so on ({' '.join(IMAGE_ENDINGS)})"
        )
    counts = [
        f"{len(masks[split])} of {len(samples)} samples of {split}"
        for split, samples in splits.items()
    ]
    tell(f"{root / 'masks'}: there are masks of {', '.join(counts)}")
    return masks


def _masks_of(root: Path, split: str, samples: Samples) -> dict[str, str]:
    folder, by_stem = root / "masks" / split, defaultdict(list)
    for mask in find_images(folder)[0] if folder.is_dir() else []:
        by_stem[_stem(mask, root / "masks")].append(mask)
    masks, images = {}, {}
    for path, _ in samples:
        stem = _stem(path, root)
        found = by_stem[stem]
        if len(found) > 1:
            raise InputError(f"{found[0]} and {found[1]}: two masks of {path}; accepted: one")
        if found and stem in images:
            two = f"{images[stem]} and {path}"
            raise InputError(f"{found[0]}: the mask of two images, {two}; accepted: of one")
        if found:
            masks[path], images[stem] = found[0], path
    return masks


def _stem(file: str, root: Path) -> Path:
    """`<split>/<class>/<stem>` of a file in a folder."""
    return Path(file).relative_to(root).with_suffix("")
