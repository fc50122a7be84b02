"""Whether the classifier alone, on inputs that were found out, decides as the module around it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning import LightningModule
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from lightning_modules.models.found_out import LABELS, OWN_FORWARD, Inputs, tensors_in
from lightning_modules.utils.errors import InputError
from relprop.recording.eager import eagerly
from relprop.recording.run import evaluating

# What a module may do to a classifier's scores and leave its decision as it is.
SAME_DECISION: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: x,
    lambda x: x.softmax(dim=-1),
    lambda x: x.log_softmax(dim=-1),
    torch.sigmoid,
)


@dataclass(frozen=True)
class Heard:
    """One call of the classifier: its arguments by name, and the scores that it returned."""

    received: dict[str, Tensor]
    scores: list[Tensor]


@dataclass(frozen=True)
class OwnForward:
    """The forward pass that surrounds a classifier: the module's, or that of a part of it.

    Attributes:
        module: whose forward pass it is.
        name: what ``model=`` is, to explain all of it.
        called: how messages call it.
        classifier: the classifier within.
        classifier_name: its name in the module.
    """

    module: nn.Module
    name: str
    called: str
    classifier: nn.Module
    classifier_name: str

    def check(self, batch: Any, inputs: Inputs | None, sole: bool) -> bool:
        """True if it is seen to call the classifier with these inputs, and to return its scores.

        Args:
            batch: of the data.
            inputs: what the classifier is going to be called with; None: it was told.
            sole: the classifier was found out, as the only one.

        Returns:
            False where nothing is known, for the forward pass does not take the batch.

        Raises:
            InputError: something comes before the classifier or after it, or it is not called.
        """
        complaints = []
        for args, keywords in ways(self.module, batch, inputs):
            try:
                heard, returned = self._run(args, keywords)
            except Exception:  # it is called in another way
                continue
            complaint = self._complaint(heard, returned, inputs, sole)
            if complaint is None:
                return bool(heard)
            complaints.append(complaint)
        if complaints:
            raise InputError(complaints[0])
        return False

    def _run(self, args: tuple, keywords: dict[str, Any]) -> tuple[list[Heard], list[Tensor]]:
        """How the classifier was called, and the scores that were returned."""
        heard, received = [], []

        def begins(part, args, kwargs):
            received.append(by_name(part, args, kwargs))

        def ends(part, args, output):
            heard.append(Heard(received.pop(), [x.clone() for x in scores_in(output)]))

        handles = [  # an explanation runs the user's own hooks, too: they stand between these
            self.classifier.register_forward_pre_hook(begins, with_kwargs=True, prepend=True),
            self.classifier.register_forward_hook(ends),
        ]
        args, keywords = apply_to_collection((args, keywords), Tensor, torch.clone)
        try:
            with evaluating(self.module), torch.no_grad(), eagerly():
                returned = self.module(*args, **keywords)
        finally:
            for handle in handles:
                handle.remove()
        return heard, scores_in(returned)

    def _complaint(
        self, heard: list[Heard], returned: list[Tensor], inputs: Inputs | None, sole: bool
    ) -> str | None:
        """What is wrong with an explanation of the classifier alone; None: nothing is known."""
        name, all_of_it = self.classifier_name, f"model={self.name!r}, which explains all of it"
        if not heard and sole:
            return (
                f"{self.called} does not call {name!r}, the only classifier of timm or Hugging "
                f"Face; accepted: {all_of_it}, or model={name!r}"
            )
        if heard and inputs is not None:
            heard = [x for x in heard if same_inputs(inputs, x.received)]
            if not heard:
                return (
                    f"{self.called} gives {name!r} something else than is found in the batch; "
                    f"accepted: {all_of_it}, or inputs= a function of a batch that gives the same"
                )
        known = [x for one in heard for x in one.scores]
        if sole and known and returned and not any(decide_alike(a, known) for a in returned):
            return (
                f"{self.called} returns other scores than {name!r}; accepted: {all_of_it}, or "
                f"model={name!r}"
            )
        return None


def own_forward(module: LightningModule, classifier: nn.Module, name: str) -> OwnForward | None:
    """The outermost forward pass around a classifier of that dotted name; None: there is none."""
    if type(module).forward is not LightningModule.forward:
        return OwnForward(module, OWN_FORWARD, f"{type(module).__name__}.forward", classifier, name)
    parts = name.split(".")
    for i in range(1, len(parts)):
        outer, path = module.get_submodule(".".join(parts[:i])), ".".join(parts[:i])
        base = LightningModule if isinstance(outer, LightningModule) else nn.Module
        if type(outer).forward is not base.forward:
            return OwnForward(outer, path, f"self.{path}", classifier, name)
    return None


def ways(module: nn.Module, batch: Any, inputs: Inputs | None) -> Iterator[tuple[tuple, dict]]:
    """Arguments that a forward pass may be called with, the likeliest first."""
    accepted = inspect.signature(module.forward).parameters.values()
    anything = any(x.kind is inspect.Parameter.VAR_KEYWORD for x in accepted)
    names = {x.name for x in accepted}
    if isinstance(inputs, Tensor):
        yield (inputs,), {}
    elif inputs is not None and (anything or names >= inputs.keys()):
        yield (), dict(inputs)
    if isinstance(batch, (tuple, list)):
        yield (batch[0],), {}
        yield tuple(batch), {}
    elif isinstance(batch, Mapping):
        yield (), {name: x for name, x in batch.items() if anything or name in names}
    yield (batch,), {}


def by_name(module: nn.Module, args: tuple, keywords: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors that a module is called with, by the names of its arguments."""
    signature = inspect.signature(getattr(module, "_orig_mod", module).forward)
    bound = signature.bind(*args, **keywords).arguments
    flat: dict[str, Any] = {}
    for name, x in bound.items():
        flat |= x if isinstance(x, Mapping) else {name: x}
    return {name: x.clone() for name, x in tensors_in(flat).items() if name not in LABELS}


def same_inputs(given: Inputs, received: dict[str, Tensor]) -> bool:
    """Whether a classifier that is given these inputs sees what it has received."""
    if isinstance(given, Tensor):
        given = {next(iter(received), ""): given}
    given = tensors_in(given)
    for name in given.keys() | received.keys():
        pair = [x[name] for x in (given, received) if name in x]
        if len(pair) == 1 and not says_nothing(name, pair[0]):
            return False
        if len(pair) == 2 and not equal(*pair):
            return False
    return True


def says_nothing(name: str, x: Tensor) -> bool:
    """True of a mask that hides nothing, and of types of tokens that are all the first."""
    if name.endswith("mask"):
        return bool(x.bool().all())
    return name == "token_type_ids" and not x.any()


def equal(given: Tensor, received: Tensor) -> bool:
    """To the bit, but for a change of precision."""
    return given.shape == received.shape and torch.equal(given.to(received), received)


def scores_in(returned: Any) -> list[Tensor]:
    """What may be scores of classes in that which a forward pass returns: tensors [B, C]."""
    parts = [returned]
    if isinstance(returned, Mapping):
        parts = list(returned.values())
    elif isinstance(returned, (tuple, list)):
        parts = list(returned)
    return [x for x in parts if isinstance(x, Tensor) and x.ndim == 2 and x.is_floating_point()]


def decide_alike(scores: Tensor, known: list[Tensor]) -> bool:
    """Whether scores are those of a classifier, or probabilities made of them."""
    return any(
        x.shape == scores.shape and torch.allclose(f(x).float(), scores.float())
        for x in known
        for f in SAME_DECISION
    )
