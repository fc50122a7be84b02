"""What every format of an exported classifier has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import timm
from torch import nn
from transformers import PreTrainedModel

from lightning_modules.data.images.transforms import INPUT_KEYS
from lightning_modules.data.texts.pairs import Pair
from lightning_modules.modalities import Images, Texts
from lightning_modules.models.classifier import Classifier
from lightning_modules.utils.errors import InputError
from relprop.registry import Registry

EXPORTS: Registry[type[Export]] = Registry("format")


class Export(ABC):
    """A classifier in a format of files, for others to load.

    A subclass is registered in ``EXPORTS``. Its constructor refuses what it cannot write.

    Attributes:
        name: in ``EXPORTS``.

    Args:
        classifier: in evaluation.

    Raises:
        InputError: the classifier cannot be written in this format.
    """

    name: ClassVar[str]

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self.backbone: nn.Module = classifier.backbone

    @property
    @abstractmethod
    def library(self) -> str:
        """The library that loads it, as the hub calls it."""

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Write the model, and what makes its inputs, into an empty folder."""

    @abstractmethod
    def usage(self, place: str) -> str:
        """Python that loads the model from ``place``, a folder or a hub id, and asks it."""

    # ------------------------------------------------------------------ what subclasses share

    @property
    def reads_texts(self) -> bool:
        return any(isinstance(x, Texts) for x in self.classifier.sources.values())

    @property
    def pipeline(self) -> str | None:
        """What the hub calls the task; None where it has no word for it."""
        return next(iter(self.classifier.sources.values())).pipeline

    @property
    def input_config(self) -> dict[str, Any]:
        return self.classifier.hparams.input_config

    def transforms(self) -> dict[str, Any]:
        """How pictures are made into inputs in evaluation, in timm's words; else nothing."""
        if not any(isinstance(x, Images) for x in self.classifier.sources.values()):
            return {}
        return {name: self.input_config[name] for name in INPUT_KEYS if name in self.input_config}

    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer of texts, which makes the inputs of training; else nothing."""
        for modality in self.classifier.sources.values():
            if isinstance(modality, Texts):
                tokenizer = modality.tokenizer
                tokenizer.model_max_length = self.input_config["max_length"]
                tried = Pair("a", "a") if self.input_config.get("pairs") else "a"
                inputs = self.classifier.inputs(self.classifier.prepare([tried]))
                tokenizer.model_input_names = list(inputs)  # of pairs the types of tokens, too
                tokenizer.init_kwargs["model_input_names"] = list(inputs)
                tokenizer.save_pretrained(folder)

    @property
    def is_timm(self) -> bool:
        """Whether timm makes the backbone by its name and the options of the model."""
        return is_timm(self.backbone) and self.classifier.beyond_library() is None

    def refuse(self, accepted: str) -> InputError:
        """The error for a backbone that the format is not for."""
        kind, called = self.classifier.kind, type(self.backbone).__name__
        given = self.classifier.beyond_library()
        more = f" with {given}, which its library does not have" if given else ""
        return InputError(
            f"--to {self.name}: the model is of the kind {kind} ({called}{more}); "
            f"accepted: {accepted}"
        )


def is_timm(backbone: nn.Module) -> bool:
    """Whether a model is one that timm makes by its name."""
    config = getattr(backbone, "pretrained_cfg", None) or {}
    return timm.is_model(config.get("architecture", ""))


def is_hugging_face(backbone: nn.Module) -> bool:
    """Whether a model is one of transformers."""
    return isinstance(backbone, PreTrainedModel)
