"""What is found out about a module that is not ours: its classifier, and how it is called."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lightning import LightningModule
from torch import Tensor, nn

from lightning_modules.utils.errors import InputError

LABELS = ("label", "labels", "target", "targets", "y")  # keys of a batch
HEAD = re.compile("For(Sequence|Image)Classification")  # in names of Hugging Face's classes
OWN_FORWARD = "forward"

ENDS = ("cls", "bos", "sep", "eos")  # of texts, as ``cls_token_id`` of a configuration
TELL = (
    "accepted: inputs= a function of a batch that gives a tensor or keywords, and labels= one that "
    "gives the labels"
)

Inputs = Tensor | dict[str, Any]


def find_model(module: LightningModule, named: str | None) -> tuple[str, nn.Module]:
    """The classifier within a module: the one named, or the only one of timm or Hugging Face.

    Where there is none it is the module itself, as its ``forward`` has it. With its name.
    """
    found = classifiers_in(module)
    candidates = ", ".join(map(repr, found)) or "none of timm's or Hugging Face's"
    if named is not None and named != OWN_FORWARD:
        try:
            return named, module.get_submodule(named)
        except AttributeError:
            raise InputError(
                f"model is {named!r}, and {type(module).__name__} has no such module; accepted: "
                f"{OWN_FORWARD!r}, or the name of an attribute (candidates: {candidates})"
            ) from None
    if named is None and len(found) == 1:
        return next(iter(found.items()))
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
    return OWN_FORWARD, module


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


def inputs_of(batch: Any, model: nn.Module, labels_told: bool = False) -> Inputs:
    """What of a batch goes into a classifier, as keywords where it has arguments of such names.

    Raises:
        InputError: it is not clear, or a tensor of the batch would be left out.
    """
    if isinstance(batch, (tuple, list)) and batch:
        check_others(batch, labels_told)
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
        nested = nested_in(batch)
        if nested is not None and not wide:
            return inputs_of(nested, model)
    raise InputError(
        f"which of {described(batch)} goes into {type(model).__name__} is not clear; {TELL}"
    )


def check_others(batch: Sequence[Any], labels_told: bool) -> None:
    """Raises an InputError where (inputs, labels, ...) has a tensor that may be an input, too.

    Behind the labels, indices and weights [B] are none.
    """
    inputs, *others = batch
    size = len(next(iter(tensors_in(inputs).values()), ()))
    for place, x in enumerate(others):
        if not isinstance(x, Tensor):
            continue
        fits = are_classes(x, size) if place == 0 else x.shape == (size,)
        alike = isinstance(inputs, Tensor) and x.shape == inputs.shape
        if not fits and (alike or place > 0 or not labels_told):
            raise InputError(
                f"number {place + 2} of {described(batch)} is {described(x)}, and not the labels "
                f"[{size}] of integers: it may be an input; {TELL}, or None"
            )


def labels_of(batch: Any) -> tuple[Tensor | None, str]:
    """The labels of a batch, and how a message calls them; None if there are none.

    They are the second of (inputs, labels), or what has such a name.
    """
    if isinstance(batch, (tuple, list)) and len(batch) > 1:
        found = batch[1] if isinstance(batch[1], Tensor) else None
        return found, f"number 2 of {described(batch)}"
    if isinstance(batch, (tuple, list)) and len(batch) == 1:
        batch = batch[0]
    while isinstance(batch, Mapping):
        named = tensors_in(batch)
        name = next((name for name in LABELS if name in named), None)
        if name is not None:
            return named[name], repr(name)
        batch = nested_in(batch)
    return None, ""


def nested_in(batch: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The only mapping within a mapping."""
    found = [x for x in batch.values() if isinstance(x, Mapping)]
    return found[0] if len(found) == 1 else None


def check_mask(inputs: Inputs, model: nn.Module) -> None:
    """Raises an InputError where texts are padded, and no mask says where.

    A token that also ends texts is taken for an end.
    """
    ids, config = ids_in(inputs), getattr(model, "config", None)
    known = {name: getattr(config, f"{name}_token_id", None) for name in (*ENDS, "pad")}
    pad = known.pop("pad")
    masked = isinstance(inputs, Mapping) and "attention_mask" in inputs
    if ids is None or masked or pad is None or pad in known.values():
        return
    if (
        "attention_mask" in inspect.signature(model.forward).parameters
        and (ids[:, [0, -1]] == pad).any()
    ):
        raise InputError(
            f"the texts are padded (pad_token_id is {pad}), and the batch has no attention_mask; "
            'accepted: inputs= a function of a batch that gives {"input_ids": ..., '
            '"attention_mask": ...}, or the ids alone if that is how it is trained'
        )


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


def are_classes(labels: Any, size: int) -> bool:
    """Whether they are one class for each of ``size`` samples."""
    is_tensor = isinstance(labels, Tensor) and not labels.is_floating_point()
    return is_tensor and labels.shape == (size,)


def described(value: Any) -> str:
    """What kind of thing it is, and of which shapes, in a few words."""
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Mapping):
        return "a mapping of " + (", ".join(map(repr, value)) or "nothing")
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
