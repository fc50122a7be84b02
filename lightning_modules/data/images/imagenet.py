"""ImageNet's validation images, and the part of its training images that was segmented by hand.

For `explain.py evaluate`: data of the paper's tables, with a test split alone.
"""

from pathlib import Path
from typing import Annotated

import h5py
import numpy as np
from PIL import Image
from timm.data import ImageNetInfo
from torch.utils.data import Dataset
from torchvision.transforms import Compose, InterpolationMode, PILToTensor, Resize

from lightning_modules.data.base import DATAMODULES
from lightning_modules.data.folders import say_left_out
from lightning_modules.data.images.base import ResizedDataModule
from lightning_modules.data.images.class_folders import (
    SAMPLES,
    find_classes,
    find_images,
    loose_files,
)
from lightning_modules.data.images.folder import EvalImages
from lightning_modules.data.images.transforms import make_eval_transform
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.options import Count, PathThere, Range


def imagenet_names() -> list[str]:
    """The thousand classes, each by the first of its names."""
    info = ImageNetInfo()
    names = (info.index_to_description(label) for label in range(info.num_classes()))
    return [name.partition(",")[0] for name in names]


class ImageNetTestModule(ResizedDataModule):
    """What both have: ImageNet's classes, and no split but test.

    Args:
        options: those of ResizedDataModule.
    """

    def __init__(self, *, batch_size: Count = 16, **options) -> None:
        super().__init__(batch_size=batch_size, **options)
        self.class_names = imagenet_names()

    @property
    def train_dataset(self) -> Dataset:
        raise InputError(
            "data.kind: ImageNet's are for explain.py evaluate, they have no train and val splits; "
            "accepted: data to train on, as image_folder"
        )

    val_dataset = train_dataset


@DATAMODULES.register("imagenet")
class ImageNetDataModule(ImageNetTestModule):
    """The validation images in folders: root/<WordNet id>/*.JPEG, as n02123045; some, or all 1000.

    Images are the files that ImageFolderDataModule takes for images.

    Args:
        root: folder of the folders.
        options: those of ResizedDataModule.

    Raises:
        FileNotFoundError: there is no folder, or no image.
        InputError: a folder is none of ImageNet's.
    """

    def __init__(
        self, root: PathThere, *, num_workers: Annotated[int, Range(0)] = 2, **options
    ) -> None:
        super().__init__(num_workers=num_workers, **options)
        folder = Path(root).expanduser()
        labels = {name: label for label, name in enumerate(ImageNetInfo().label_names())}
        samples, others = [], loose_files(folder)
        for name in find_classes(folder):
            if name not in labels:
                raise InputError(f"{folder / name}: no class of ImageNet; accepted: as n02123045")
            images, more = find_images(folder / name)
            samples += [(path, labels[name]) for path in images]
            others += more
        if not samples:
            raise FileNotFoundError(f"{folder}: no images; accepted: <WordNet id>/*.JPEG")
        say_left_out(folder, others, SAMPLES)
        # Their order is that of the classes: `--limit` takes some of every one.
        order = np.random.default_rng(self.seed).permutation(len(samples))
        samples = [samples[i] for i in order]
        self.test_dataset = EvalImages(samples, self.eval_transform)


@DATAMODULES.register("imagenet_segmentation")
class ImageNetSegmentationDataModule(ImageNetTestModule):
    """The 4,276 segmented images of Guillaumin et al. 2014, in their file `gtsegs_ijcv.mat`.

    A MATLAB 7.3 file, which is HDF5: `/value/img` [N, 1] refers to images [3, W, H], uint8, and
    `/value/gt` [N, 1] to cells [1, 1] that refer to masks [W, H], not zero on the object. Images
    and masks are resized to the input's size whatever their aspect, as in the paper's evaluation.

    Args:
        file: path of it.
        options: those of ResizedDataModule.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is not as described.
    """

    def __init__(self, file: str, **options) -> None:
        super().__init__(**options)
        self.test_dataset = SegmentedImages(Path(file).expanduser(), self.input_config)


class SegmentedImages(Dataset):
    """`{"image": float [3, H, W], "mask": bool [H, W]}`; see ImageNetSegmentationDataModule.

    Args:
        path: of the file.
        input_config: see ImageDataModule.
    """

    def __init__(self, path: Path, input_config: dict) -> None:
        self.path = path
        size = tuple(input_config["input_size"][1:])
        *_, to_tensor, normalize = make_eval_transform(input_config).transforms
        interpolation = InterpolationMode(input_config["interpolation"])
        self.transform = Compose([Resize(size, interpolation), to_tensor, normalize])
        self.mask_transform = Compose([Resize(size, InterpolationMode.NEAREST), PILToTensor()])
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; accepted: gtsegs_ijcv.mat")
        try:
            with h5py.File(path, "r") as file:
                self.length = len(file["/value/img"])
                self._read(file, 0)
        except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}: {error}; accepted: gtsegs_ijcv.mat, HDF5 with /value/img and /value/gt"
            ) from None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        with h5py.File(self.path, "r") as file:  # a file opened before cannot go to a worker
            image, mask = self._read(file, index)
        return {"image": self.transform(image), "mask": self.mask_transform(mask)[0] > 0}

    def _read(self, file: h5py.File, index: int) -> tuple[Image.Image, Image.Image]:
        image = np.array(file[file["/value/img"][index, 0]])
        mask = np.array(file[file[file["/value/gt"][index, 0]][0, 0]])
        # MATLAB's order of axes is the reverse.
        picture = Image.fromarray(image.transpose(2, 1, 0)).convert("RGB")
        return picture, Image.fromarray((mask.T > 0).astype(np.uint8) * 255)
