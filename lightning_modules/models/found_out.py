"""What is found out about a module that is not ours: its classifier, and how it is called."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from lightning import LightningModule
from torch import Tensor, nn

from lightning_modules.utils.errors import InputError

LABELS = ("label", "labels", "target", "targets", "y")  # keys of a batch
HEAD = re.compile("For(Sequence|Image)Classification")  # in names of Hugging Face's classes
OWN_FORWARD = "forward"

Inputs = Tensor | dict[str, Any]


def find_model(module: LightningModule, named: str | None) -> nn.Module:
    """The classifier within a module: the one named, or the only one of timm or Hugging Face.

    Where there is none it is the module itself, as its ``forward`` has it.
    """
    found = classifiers_in(module)
    candidates = ", ".join(map(repr, found)) or "none of timm's or Hugging Face's"
    if named is not None and named != OWN_FORWARD:
        try:
            return module.get_submodule(named)
        except AttributeError:
            raise InputError(
                f"model is {named!r}, and {type(module).__name__} has no such module; accepted: "
                f"{OWN_FORWARD!r}, or the name of an attribute (candidates: {candidates})"
            ) from None
    if named is None and len(found) == 1:
        return next(iter(found.values()))
    if named is None and found:
        raise InputError(
            f"{type(module).__name__} has {len(found)} classifiers, {candidates}; accepted: "
            f"model= one of them, or model={OWN_FORWARD!r}"
        )
    if type(module).forward is LightningModule.forward:
        raise InputError(
            f"{type(module).__name__} has no classifier of timm or Hugging Face, and no forward; "
            "accepted: model= the name of the attribute that is its classifier"
        )
    return module


def classifiers_in(module: nn.Module) -> dict[str, nn.Module]:
    """The outermost classifiers of timm and Hugging Face by their dotted names."""
    found: dict[str, nn.Module] = {}
    for name, part in module.named_modules():
        inner = any(name.startswith(f"{outer}.") for outer in found)
        if name and not inner and (is_of_timm(part) or is_of_hugging_face(part)):
            found[name] = part
    return {name.removesuffix("._orig_mod"): part for name, part in found.items()}  # compiled


def is_of_timm(part: nn.Module) -> bool:
    """True of timm's models that have a head."""
    known = all(hasattr(type(part), name) for name in ("get_classifier", "reset_classifier"))
    return known and (getattr(part, "num_classes", 0) or 0) > 0


def is_of_hugging_face(part: nn.Module) -> bool:
    """True of Hugging Face's classifiers of texts and of pictures."""
    names = [cls.__name__ for cls in type(part).__mro__]
    return "PreTrainedModel" in names and any(map(HEAD.search, names))


def inputs_of(batch: Any, model: nn.Module) -> Inputs:
    """What of a batch goes into a classifier, as keywords where it has arguments of such names."""
    if isinstance(batch, (tuple, list)) and len(batch) in (1, 2):
        batch = batch[0]
    if isinstance(batch, Tensor):
        return batch
    if isinstance(batch, Mapping):
        tensors = {n: x for n, x in tensors_in(batch).items() if n not in LABELS}
        accepted = inspect.signature(model.forward).parameters
        keywords = {name: x for name, x in tensors.items() if name in accepted}
        if keywords:
            return keywords
        wide = [x for x in tensors.values() if x.ndim > 1]
        if len(wide) == 1:
            return wide[0]
    raise InputError(
        f"which of {described(batch)} goes into {type(model).__name__} is not clear; accepted: "
        "inputs= a function of a batch that gives a tensor or keywords, and labels= one that "
        "gives the labels"
    )


def labels_of(batch: Any) -> Tensor | None:
    """The labels of a batch: the second of two, or what has such a name; None if there are none."""
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        batch = {LABELS[0]: batch[1]}
    elif isinstance(batch, (tuple, list)) and len(batch) == 1:
        batch = batch[0]
    named = tensors_in(batch) if isinstance(batch, Mapping) else {}
    return next((named[name] for name in LABELS if name in named), None)


def tensors_in(inputs: Any) -> dict[str, Tensor]:
    """The tensors of a mapping by their names, or one alone."""
    named = inputs if isinstance(inputs, Mapping) else {"": inputs}
    return {name: x for name, x in named.items() if isinstance(x, Tensor)}


def picture_in(inputs: Inputs) -> Tensor | None:
    """The first pictures [B, C, H, W] among a classifier's inputs."""
    found = tensors_in(inputs).values()
    return next((x for x in found if x.ndim == 4 and x.is_floating_point()), None)


def ids_in(inputs: Inputs) -> Tensor | None:
    """The ids of tokens [B, N] among a classifier's inputs."""
    found = tensors_in(inputs)
    named = {n: x for n, x in found.items() if n.endswith("input_ids")} or found
    return next((x for x in named.values() if x.ndim == 2 and not x.is_floating_point()), None)


def described(value: Any) -> str:
    """What kind of thing it is, and of which shapes, in a few words."""
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Mapping):
        return "a mapping of " + (", ".join(map(repr, value)) or "nothing")
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
