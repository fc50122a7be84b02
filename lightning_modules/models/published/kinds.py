"""The kinds of Hugging Face's models that are explained, found by a model's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from typing_extensions import Self

import relprop
from lightning_modules.models.classifier import Classifier
from lightning_modules.utils.errors import InputError, as_input_error
from lightning_modules.utils.hub import locate
from relprop.registry import Registry

KINDS: Registry[type[Published]] = Registry("kind")
OF_FEATURES = ("lxmert", "visual_bert")  # model_types that read what a detector found in pictures


class Published(Classifier):
    """A model of Hugging Face's to explain; of one output, too.

    A subclass is a kind of models: what they are called there, what loads them, and how what lies
    beside the weights makes the inputs (:meth:`read`).

    Attributes:
        auto: loads the model.
        families: names of its class, or several, by model_type, as transformers has them.
        accepted: what an error says is accepted.
        asked: what of :func:`relprop.record` says which scores are explained.

    Args:
        class_names, input_config: as of :class:`Classifier`.
        backbone: the model.
        task: what its scores mean, a name in :data:`lightning_modules.tasks.TASKS`.
    """

    auto: ClassVar[Any]
    families: ClassVar[Mapping[str, str | tuple[str, ...]]]
    accepted: ClassVar[str]
    asked: ClassVar[Mapping[str, Any]] = {}

    is_trained_here = False
    not_kept = ("backbone",)

    def __init__(
        self,
        class_names: list[str],
        input_config: dict[str, Any],
        backbone: PreTrainedModel,
        task: str,
    ) -> None:
        # Those between would make a backbone.
        Classifier.__init__(self, class_names, input_config, task=task)
        self.backbone = backbone

    @classmethod
    def read(cls, given: str, source: str, model: PreTrainedModel) -> Self:
        """The module of a ``model``, with what else lies in ``source``; ``given`` for errors."""
        raise NotImplementedError

    @classmethod
    def architectures(cls) -> set[str]:
        """The names of the models' classes."""
        names = ((x,) if isinstance(x, str) else x for x in cls.families.values())
        return {name for of_type in names for name in of_type}

    def record(self, batch: Mapping[str, Tensor]) -> relprop.Trace:
        return relprop.record(self.backbone, self.inputs(batch), **self.asked)


def hf_classifier(name: str) -> Published:
    """A model of Hugging Face, by hub id, folder or ``package:NAME/FOLDER``.

    Raises:
        ValueError, OSError: there is none, it is of no kind in ``KINDS``, it has no head that was
            trained, or nothing that makes its inputs.
    """
    given, source = f"--hf {name}", locate(name)
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()  # what is missing is told here, in one line
    with as_input_error(given, accepted_kinds()):
        config = AutoConfig.from_pretrained(source)
    kind = kind_of(given, config)
    module = kind.read(given, source, trained_model(given, source, kind)).eval()
    classes = len(module.hparams.class_names)
    with as_input_error(f"{given}: it gives no scores", kind.accepted), torch.no_grad():
        shape = tuple(module(module.largest_batch()).shape)
        if shape != (1, classes):
            raise ValueError(f"{classes} classes, and logits of shape {list(shape)}")
    return module


def kind_of(given: str, config: PreTrainedConfig) -> type[Published]:
    """The kind of a model: that of its class, or of its model_type where it names none with a head.

    Raises:
        InputError: it is of none.
    """
    saved = config.architectures or []
    for kind in KINDS.values():
        if kind.architectures() & set(saved):
            return kind
    # Its weights may lack a head, which their loader knows, but not be those of another task.
    if not any("For" in name or "LMHead" in name for name in saved):
        for kind in KINDS.values():
            if config.model_type in kind.families:
                return kind
    called = saved[0] if saved else f"model of model_type {config.model_type!r}"
    if config.model_type in OF_FEATURES:
        raise InputError(
            f"{given}: it is a {called}, which reads the features of a detector and no pictures; "
            "accepted: relprop.explain in Python, given them by name (docs/engine.md, Features of "
            f"a detector), or {accepted_kinds()}"
        )
    raise InputError(f"{given}: it is a {called}; accepted: {accepted_kinds()}")


def accepted_kinds() -> str:
    """What an error says is accepted where the kind is not known."""
    return "the hub id or folder of " + ", ".join(KINDS)


def trained_model(given: str, source: str, kind: type[Published]) -> PreTrainedModel:
    """The model of a hub id or folder, in float32, if all of it was trained for what it does."""
    with as_input_error(given, kind.accepted):
        model, found = kind.auto.from_pretrained(
            source, output_loading_info=True, ignore_mismatched_sizes=True, dtype=torch.float32
        )
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])[0]
        raise InputError(
            f"{given}: it has no trained head (no {missing}); accepted: {kind.accepted}"
        )
    if found["mismatched_keys"]:
        key, saved, wanted = sorted(found["mismatched_keys"])[0]
        raise InputError(
            f"{given}: its {key} has the shape {list(saved)}, and its config.json asks for "
            f"{list(wanted)}; accepted: {kind.accepted}"
        )
    return model
