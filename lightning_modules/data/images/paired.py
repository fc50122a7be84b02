"""The augmentation of training pictures together with the masks of their objects."""

import copy
import random
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import AugmentOp, AutoAugment, RandAugment
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import MaybeToTensor, RandomResizedCropAndInterpolation
from torch import Tensor
from torchvision.transforms import Compose, InterpolationMode, Normalize, RandomHorizontalFlip
from torchvision.transforms.functional import pil_to_tensor

from lightning_modules.data.images.transforms import operations_of, seeded
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.options import show

# timm's operations that move pixels, and those that change the colours of pixels where they are and
# draw nothing at random while they do.
GEOMETRIC = {"Rotate", "ShearX", "ShearY"}
GEOMETRIC |= {"TranslateX", "TranslateY", "TranslateXRel", "TranslateYRel"}
COLOURS = {"AutoContrast", "Equalize", "Invert", "Desaturate", "GaussianBlur", "SolarizeAdd"}
COLOURS |= {"Posterize", "PosterizeIncreasing", "PosterizeOriginal"}
COLOURS |= {"Solarize", "SolarizeIncreasing", "Color", "ColorIncreasing"}
COLOURS |= {"Contrast", "ContrastIncreasing", "Brightness", "BrightnessIncreasing"}
COLOURS |= {"Sharpness", "SharpnessIncreasing"}


class PairedTransform:
    """A training transform of pictures that takes the mask of a picture along.

    The mask goes through timm's pipeline a second time, from the same seed: what is drawn is drawn
    again. Its interpolation is nearest, operations on colours leave it as it is, and what comes in
    from outside the picture is no object. The picture is bit for bit what ``transform`` alone makes
    of it.

    Args:
        transform: of :func:`.transforms.make_train_transform`.
        auto_augment: its policy, for errors.

    Raises:
        InputError: the transform has a step that a mask cannot follow, as AugMix, which blends
            pictures that were moved in several ways.
    """

    def __init__(self, transform: Compose, auto_augment: str | None) -> None:
        self.auto_augment = auto_augment
        self.of_pictures = transform
        steps = (self._for_masks(copy.deepcopy(step)) for step in transform.transforms)
        self.of_masks = Compose([step for step in steps if step is not None])

    def __call__(
        self, picture: Image.Image, mask: Image.Image, *entropy: int
    ) -> tuple[Tensor, Tensor]:
        """The picture, float [3, H, W], and its mask, bool [H, W], True on the object.

        Args:
            picture: in RGB.
            mask: of its size, in mode "L", not 0 on the object. Pixels that are erased are no
                object afterwards.
            entropy: numbers that decide all that is drawn.

        Raises:
            InputError: the pass of the mask has drawn something else than that of the picture.
        """
        with seeded(*entropy):
            image = self.of_pictures(picture)
            drawn = generator_states()
        with seeded(*entropy):
            seen = self.of_masks(mask)
            if generator_states() != drawn:
                raise self._cannot_follow("what it draws")
        return image, seen[0].isinf()

    def _for_masks(self, step: Callable) -> Callable | None:
        """A step of the pipeline as masks take it; None where they do without."""
        if isinstance(step, RandomResizedCropAndInterpolation):
            step.interpolation = InterpolationMode.NEAREST
        elif isinstance(step, (RandAugment, AutoAugment)):
            self._move_alone(operations_of(step))
        elif isinstance(step, MaybeToTensor):
            return infinite_on_object
        elif isinstance(step, Normalize):
            return None
        elif not isinstance(step, (RandomHorizontalFlip, RandomErasing)):
            raise self._cannot_follow(type(step).__name__)
        return step

    def _move_alone(self, operations: list[AugmentOp]) -> None:
        """Of timm's operations leave what moves pixels, and all that they draw."""
        for operation in operations:
            if operation.name in COLOURS:
                operation.aug_fn = unchanged
            elif operation.name in GEOMETRIC:
                operation.kwargs |= {"fillcolor": 0, "resample": Image.Resampling.NEAREST}
            else:
                raise self._cannot_follow(operation.name)

    def _cannot_follow(self, what: str) -> InputError:
        return InputError(
            f"guidance with data.auto_augment={show(self.auto_augment)}: a mask cannot follow "
            f"{what}; accepted: null, or a RandAugment or AutoAugment policy of timm, like "
            "'rand-m9-mstd0.5-inc1', 'original'"
        )


def unchanged(picture: Image.Image, *_, **__) -> Image.Image:
    """What operations on colours are for a mask."""
    return picture


def infinite_on_object(mask: Image.Image) -> Tensor:
    """A mask of mode "L" as float [3, H, W]: infinite on the object, which noise never is; else 0.

    It has three channels so that erasing draws as much noise as for a picture.
    """
    is_object = pil_to_tensor(mask) > 0
    return torch.where(is_object, torch.inf, 0.0).repeat(3, 1, 1)


def generator_states() -> tuple:
    """Of Python's, NumPy's and PyTorch's CPU generators; equal where as much has been drawn."""
    name, keys, *place = np.random.get_state()
    return random.getstate(), keys.tobytes(), place, torch.get_rng_state().numpy().tobytes()
