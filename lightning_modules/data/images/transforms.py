"""From a picture to the input of a model: timm's transforms, for images and for their masks."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import timm
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from PIL import Image, ImageOps
from timm.data import (
    DEFAULT_CROP_PCT,
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    create_transform,
)
from timm.data.auto_augment import AugmentOp, AugMixAugment, AutoAugment, RandAugment
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, PILToTensor, Resize

from lightning_modules.utils.options import check_option, refusal, show

# What the input_config of images says, in timm's words.
INPUT_KEYS = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")


def make_input_config(image_size: int, transforms_of: str | None) -> dict:
    """ImageDataModule's `input_config`, with the values of timm's model `transforms_of`.

    Without a model: ImageNet's mean and std, bicubic interpolation, crop_pct 0.875.

    Raises:
        ValueError: timm has no such model.
    """
    config = {
        "input_size": [3, image_size, image_size],
        "mean": list(IMAGENET_DEFAULT_MEAN),
        "std": list(IMAGENET_DEFAULT_STD),
        "interpolation": "bicubic",
        "crop_pct": DEFAULT_CROP_PCT,
        "crop_mode": "center",
    }
    if transforms_of is None:
        return config
    try:
        model = timm.get_pretrained_cfg(transforms_of, allow_unregistered=False)
    except RuntimeError as error:
        accepted = (
            "null, one of timm.list_models(pretrained=True), or the hub id or folder of a model "
            f"of Hugging Face ({error})"
        )
        raise ValueError(refusal("transforms_of", show(transforms_of), accepted)) from error
    return config | {
        "mean": list(model.mean),
        "std": list(model.std),
        "interpolation": model.interpolation,
        "crop_pct": model.crop_pct,
        "crop_mode": model.crop_mode,
    }


def make_train_transform(
    input_config: dict,
    auto_augment: str | None,
    random_erasing: float,
    hflip: float,
    scale: list[float],
) -> Compose:
    """Random crop, then what the arguments name and nothing else: RGB image to float [3, H, W].

    Raises:
        ValueError: the scale is no range, or timm has no such policy.
    """
    in_range = len(scale) == 2 and 0 < scale[0] <= scale[1] <= 1
    check_option("scale", scale, in_range, "[low, high] with 0 < low <= high <= 1")
    try:
        transform = create_transform(
            input_config["input_size"],
            is_training=True,
            scale=tuple(scale),
            hflip=hflip,
            color_jitter=None,  # timm's default jitters colours as soon as auto_augment is off
            auto_augment=auto_augment,
            interpolation=input_config["interpolation"],
            mean=tuple(input_config["mean"]),
            std=tuple(input_config["std"]),
            re_prob=random_erasing,
            re_mode="pixel",
        )
    except (AssertionError, ValueError) as error:  # how timm refuses a policy
        accepted = (
            "null or a policy of timm, like 'rand-m9-mstd0.5-inc1', 'augmix-m3-w3', 'original' "
            f"({error})"
        )
        raise ValueError(refusal("auto_augment", show(auto_augment), accepted)) from error
    for step in transform.transforms:
        for operation in operations_of(step):
            if operation.name.startswith("Posterize"):
                operation.aug_fn = posterize
    return transform


def operations_of(step: Callable) -> list[AugmentOp]:
    """The operations of timm's that a step of a training transform chooses from."""
    if isinstance(step, AutoAugment):
        return [operation for chain in step.policy for operation in chain]
    return step.ops if isinstance(step, (RandAugment, AugMixAugment)) else []


def posterize(picture: Image.Image, bits: int, **_) -> Image.Image:
    """timm's operation; without any bits a picture is black, and Pillow 13 refuses to make it."""
    if bits < 1:
        return picture.point(lambda _: 0)
    return picture if bits >= 8 else ImageOps.posterize(picture, bits)


def make_eval_transform(input_config: dict) -> Compose:
    """RGB image to float [3, H, W]: resize of the shorter side to H / crop_pct, centre crop.

    Of both sides where ``crop_mode`` is "squash".
    """
    return create_transform(**input_config)


def make_mask_transform(eval_transform: Compose) -> Compose:
    """The resize and the crop of `eval_transform`, for masks: mode "L" to uint8 [1, H, W]."""
    resize, crop, *_ = eval_transform.transforms
    if not (isinstance(resize, Resize) and isinstance(crop, CenterCrop)):
        raise TypeError(f"{eval_transform} does not begin with Resize and CenterCrop")
    return Compose([Resize(resize.size, InterpolationMode.NEAREST), crop, PILToTensor()])


@contextmanager
def seeded(*entropy: int) -> Iterator[None]:
    """Python's, NumPy's and PyTorch's CPU generators seeded by `entropy`; as before afterwards."""
    words = np.random.SeedSequence(entropy).generate_state(3).tolist()
    with isolate_rng(include_cuda=False):
        random.seed(words[0])
        np.random.seed(words[1])
        # torch.manual_seed would reseed the GPU too, and with it the model's dropout.
        torch.default_generator.manual_seed(words[2])
        yield
