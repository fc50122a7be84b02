"""What of a backbone is trained: all, the head, adapters, or what no option freezes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from lightning_modules.models import adapters, freezing
from lightning_modules.models.adapters import Lora
from lightning_modules.models.base_weights import Base, leave_out
from lightning_modules.models.blocks import levels_of
from lightning_modules.models.explaining import ExplainingModule
from lightning_modules.utils.errors import InputError


class TrainedPart(ExplainingModule):
    """Freezes a backbone and puts adapters into it, as the options of a classifier say.

    Attributes:
        lora: the adapters; None where there are none.
        base: what the module's state dict leaves out; None where it has all weights.
        usual_targets: names of layers that go together, and that ``lora`` adapts unless it names
            others; the first that the blocks have are taken.
        no_sources: arguments for which neither hub nor file of weights is asked.
    """

    lora: Lora | None = None
    base: Base | None = None
    usual_targets: Sequence[Sequence[str]] = ()
    no_sources: dict[str, Any]
    is_chosen = False

    def choose_trained(self) -> None:
        """Freeze and adapt the backbone as the options say, and compile it.

        Raises:
            InputError: the options do not go together, or name what the backbone does not have.
        """
        options, self.is_chosen = self.hparams, True
        if self.lora is not None:
            self._adapt()
        elif options.freeze_backbone:
            freezing.train_alone(self.backbone, self.head_parameters())
        if options.freeze:
            freezing.freeze(self, options.freeze)
        if options.compile:
            self.backbone.compile()

    def _adapt(self) -> None:
        if self.hparams.freeze_backbone or self.hparams.freeze:
            raise InputError(
                "model.lora freezes all but the adapters and the head; accepted with it: "
                "model.freeze_backbone=false and model.freeze=null"
            )
        head = self.head_parameters()
        adapters.adapt(self.backbone, self.lora, self.usual_targets)
        for name, parameter in self.backbone.named_parameters():
            if name in head:
                parameter.requires_grad_(True)
        if self.lora.save == "adapters":
            self.base = leave_out(self, self.given_sources())

    def check_chosen(self) -> None:
        """Raises an InputError where options are given that a classifier's constructor forgets."""
        if not self.is_chosen and (self.lora is not None or self.hparams.freeze):
            raise InputError(
                f"model.lora and model.freeze are not taken by {type(self).__name__}, which does "
                "not call choose_trained(); accepted: null"
            )

    def given_sources(self) -> dict[str, Any]:
        """The options that say where the weights that training begins with are from.

        Empty where these are random.
        """
        none, given = self.no_sources, self.hparams
        found = {name: given[name] for name in none if given[name] != none[name]}
        return {"name": given.name} | found if found and given.get("name") else found

    def merge(self) -> None:
        """As ``merged``, for good: there are no adapters any more."""
        if self.lora is not None:
            adapters.merge(self.backbone)
            self.lora = self.base = self.hparams.lora = None

    # -------------------------------------------------------- what a subclass may know better

    def levels(self) -> dict[str, int]:
        """How far up each of the backbone's parameters is; see :func:`.blocks.levels_of`."""
        return levels_of(self.backbone)

    def groups_of(
        self, levels: Mapping[str, int], decays: Callable[[str, nn.Parameter], bool]
    ) -> list[dict]:
        """Groups of the trained parameters of the backbone, by level and by whether they decay.

        The top level has the learning rate ``lr``, and each below it ``layer_decay`` times that of
        the one above.
        """
        top, hparams = max(levels.values()), self.hparams
        groups: dict[tuple[int, bool], dict] = {}
        for name, parameter in self.backbone.named_parameters():
            if not parameter.requires_grad:
                continue
            level, is_decayed = levels[name], bool(decays(name, parameter))
            group = groups.setdefault(
                (level, is_decayed),
                {
                    "params": [],
                    "weight_decay": hparams.weight_decay if is_decayed else 0.0,
                    "lr": hparams.lr * hparams.layer_decay ** (top - level),
                },
            )
            group["params"].append(parameter)
        return list(groups.values())

    def head_parameters(self) -> set[str]:
        """Names of the backbone's parameters that make logits of features.

        Unless a subclass knows better, those of the last linear layer.
        """
        modules = self.backbone.named_modules()
        *_, (layer, linear) = ((name, m) for name, m in modules if isinstance(m, nn.Linear))
        return {f"{layer}.{name}" for name, _ in linear.named_parameters()}
