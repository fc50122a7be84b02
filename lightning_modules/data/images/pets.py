"""The Oxford-IIIT Pets: 37 breeds of cats and dogs, each picture with its trimap."""

import numpy as np
import torch
from PIL import Image
from sklearn.model_selection import train_test_split
from torch.utils.data import Dataset
from torchvision.datasets import OxfordIIITPet
from torchvision.transforms import Compose

from lightning_modules.data.base import DATAMODULES
from lightning_modules.data.images.base import AugmentedDataModule
from lightning_modules.data.images.paired import PairedTransform
from lightning_modules.data.images.transforms import make_mask_transform, seeded
from lightning_modules.data.sampling import epoch_and_index
from lightning_modules.utils.options import check_option

BACKGROUND = 2  # of a trimap; 1 is the pet, 3 its outline, which is taken for a part of it


class TrainPets(Dataset):
    """Augmented pictures: `{"image": float [3, H, W], "label": int}`.

    A sample depends on (seed, epoch, index) alone.

    Attributes:
        paired: as ``transform``, for a picture and its mask. A sample has a `mask` as well then,
            bool [H, W], True on the pet.
    """

    paired: PairedTransform | None = None

    def __init__(
        self, pets: OxfordIIITPet, indices: list[int], transform: Compose, seed: int
    ) -> None:
        self.pets, self.indices, self.transform, self.seed = pets, indices, transform, seed

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        epoch, index = epoch_and_index(key)
        picture, (label, trimap) = self.pets[self.indices[index]]
        if self.paired is not None:
            image, mask = self.paired(picture, pet_of(trimap), self.seed, epoch, index)
            return {"image": image, "label": label, "mask": mask}
        with seeded(self.seed, epoch, index):
            return {"image": self.transform(picture), "label": label}


class EvalPets(Dataset):
    """`{"image": float [3, H, W], "label": int, "mask": bool [H, W]}`, True on the pet."""

    def __init__(self, pets: OxfordIIITPet, indices: list[int], transform: Compose) -> None:
        self.pets, self.indices, self.transform = pets, indices, transform
        self.mask_transform = make_mask_transform(transform)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict:
        image, (label, trimap) = self.pets[self.indices[index]]
        mask: torch.Tensor = self.mask_transform(pet_of(trimap))[0] > 0
        return {"image": self.transform(image), "label": label, "mask": mask}


def pet_of(trimap: Image.Image) -> Image.Image:
    """The mask of a trimap: mode "L", 255 on the pet."""
    return Image.fromarray((np.asarray(trimap) != BACKGROUND).astype(np.uint8) * 255)


@DATAMODULES.register("pets")
class PetsDataModule(AugmentedDataModule):
    """torchvision's OxfordIIITPet; a fifth of its trainval split, of every breed, is val.

    Args:
        root: folder that holds, or with ``download`` will hold, `oxford-iiit-pet/`.
        download: fetch it if it is not there.
        options: those of AugmentedDataModule.

    Raises:
        ValueError: an argument is out of its range, or the data are not there.
    """

    def __init__(self, root: str, download: bool = False, **options) -> None:
        super().__init__(**options)
        try:
            trainval, test = (
                OxfordIIITPet(root, split, ["category", "segmentation"], download=download)
                for split in ("trainval", "test")
            )
        except (RuntimeError, OSError) as error:
            reason = str(error).splitlines()[0]
            accepted = f"oxford-iiit-pet/images and annotations in {root}, or data.download=true"
            raise ValueError(f"data.root {root}: {reason}; accepted: {accepted}") from None
        check_option("root", root, len(trainval) > 0 and len(test) > 0, "a data set with pictures")
        self.class_names = trainval.classes
        train, val = train_test_split(
            np.arange(len(trainval)),
            test_size=0.2,
            stratify=trainval._labels,
            random_state=self.seed,
        )
        self.train_dataset = TrainPets(trainval, train.tolist(), self.train_transform, self.seed)
        self.val_dataset = EvalPets(trainval, sorted(val.tolist()), self.eval_transform)
        self.test_dataset = EvalPets(test, list(range(len(test))), self.eval_transform)

    def mask_train(self, instead: str = "guidance=null") -> None:
        self.train_dataset.paired = PairedTransform(self.train_transform, self.auto_augment)
