"""Training on explanations: beside the loss of the task, one on relevance maps."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

import relprop
from lightning_modules.modalities import Modality
from lightning_modules.models.classifier import Classifier
from lightning_modules.models.explaining import check_whole
from lightning_modules.tasks import Asked
from lightning_modules.tasks.weighting import mean_of_processes
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.options import Checked, Count, NotNegative, Range, check_option
from relprop.guidance import GUIDANCE_LOSSES, guidance_losses, share_of

INPUT_GRADIENT = "input_gradient"  # a method that relprop has not
RIGHT_REASONS = "right_reasons"  # its loss
DRAWN = ("robustvit",)  # losses of maps as they are drawn, pixel by pixel
LOG_PROBABILITIES = {  # of logits [..., C], by what makes probabilities of them
    "softmax": functools.partial(F.log_softmax, dim=-1),
    "sigmoid": F.logsigmoid,
    None: lambda numbers: numbers,
}


class Guidance(Checked):
    """A loss on the relevance of training samples of which is known what should count.

    Those are pictures with a mask of the object, and texts with a rationale; others do not count.
    They are run a second time for it, in evaluation and in the parameters' own precision.

    Args:
        weight: of this loss beside that of the task. 0: there is none.
        method: whose map for the true class is trained, a name in ``relprop.METHODS``; or
            ``input_gradient``, which has a loss of its own: the squares of the gradient of
            sum_k log p_k outside of the object ("Right for the Right Reasons", 2017).
        loss: a name in ``relprop.GUIDANCE_LOSSES``. ``share``: -log of the share of relevance on
            the object; ``robustvit``: of Chefer, Schwartz, Wolf, NeurIPS 2022. None: ``share``, and
            of ``input_gradient`` its own.
        differentiable: what of the map is trained, as of :func:`relprop.record`. None: the
            attention alone, as published, and of ``input_gradient`` everything.
        masks: ``shuffled``: each sample has the mask of another, a control that should do harm.
        start_layer: first block of the product methods.
        samples: of a batch, and of a process, at most, the first that are known; None: all. Bounds
            the memory.
        every_n_steps: a step has this loss if its number is a multiple.
        warmup: share of the training in which the weight rises from 0.
    """

    def __init__(
        self,
        *,
        weight: NotNegative = 1.0,
        method: str = "generic_attention",
        loss: str | None = None,
        differentiable: Literal["attention", "exact"] | None = None,
        masks: Literal["own", "shuffled"] = "own",
        start_layer: Annotated[int, Range(0)] = 0,
        samples: Count | None = None,
        every_n_steps: Count = 1,
        warmup: Annotated[float, Range(0, 1)] = 0.0,
    ) -> None:
        accepted = [*relprop.METHODS, INPUT_GRADIENT]
        check_option("guidance.method", method, method in accepted, ", ".join(accepted))
        of_gradient = method == INPUT_GRADIENT
        of_maps = [None, *(x for x in GUIDANCE_LOSSES if x != RIGHT_REASONS)]
        losses = [None] if of_gradient else of_maps
        check_option("guidance.loss", loss, loss in losses, accepted_of(method, losses))
        if of_gradient:
            exact = accepted_of(method, [None, "exact"])
            check_option(
                "guidance.differentiable", differentiable, differentiable != "attention", exact
            )
            check_option("guidance.start_layer", start_layer, start_layer == 0, f"0 with {method}")
        self.method, self.masks = method, masks
        self.loss = loss or (RIGHT_REASONS if of_gradient else "share")
        self.differentiable = differentiable or ("exact" if of_gradient else "attention")
        self.options = {} if of_gradient else {"start_layer": start_layer}
        self.weight, self.warmup = weight, warmup
        self.samples, self.every_n_steps = samples, every_n_steps

    def __str__(self) -> str:
        options = "".join(f", {name} {value}" for name, value in self.options.items() if value)
        masks = ", of shuffled masks" if self.masks == "shuffled" else ""
        return (
            f"weight {self.weight:g}, {self.loss} of {self.method}{options}, "
            f"{self.differentiable}{masks}"
        )

    # ----------------------------------------------------------------------------- in a step

    def __call__(
        self, module: Classifier, batch: Mapping[str, Any], logits: Tensor
    ) -> Tensor | None:
        """What is added to the loss of a batch, with the logits [B, C]; None: nothing.

        It is the mean over the known samples of all processes.
        """
        weight = self.weight_at(module.progress())
        if weight == 0 or module.global_step % self.every_n_steps:
            return None
        losses, shares = self.of_samples(module, batch, logits.detach())
        known = mean_of_processes(torch.tensor(float(len(losses)), device=logits.device))
        if known == 0:
            return None
        loss = losses.sum() / known
        module.log("train/guidance_loss", loss.detach(), sync_dist=True)
        module.log("train/guidance_share", shares.sum() / known, sync_dist=True)
        return weight * loss

    def weight_at(self, progress: float) -> float:
        """The weight at a share of the training."""
        return self.weight * (min(1, progress / self.warmup) if self.warmup else 1)

    def of_samples(
        self, module: Classifier, batch: Mapping[str, Any], logits: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The loss of each known sample, and the share of relevance on its object.

        Of a sample with several labels those of each.
        """
        losses, shares = [logits.new_zeros(0)], [logits.new_zeros(0)]
        questions = [x for x in module.task.asked(batch["label"], logits) if x.scored]
        for name, modality in module.sources.items():
            marks, known = self._marks(modality, batch, questions)
            rows = known.any(dim=0).nonzero()[: self.samples, 0].tolist()
            if not rows:
                continue
            part = module.part_of(batch, rows)
            explained = self._explained(module, part, [x.target[rows] for x in questions], name)
            for x, of_target, counts in zip(explained, marks, known[:, rows], strict=True):
                pairs = modality.beside(x, of_target[rows], self.loss in DRAWN)
                pairs = [(S.flatten(1), m.flatten(1)) for S, m in pairs]
                # The rationale of another may lie where a shorter text has ended.
                counts = counts & torch.cat([m.any(dim=1) for _, m in pairs])
                each = [guidance_losses(S, m, self.loss) for S, m in pairs]
                losses.append(torch.cat(each)[counts])
                each = [share_of(S.detach().relu(), m) for S, m in pairs]
                shares.append(torch.cat(each)[counts])
        return torch.cat(losses), torch.cat(shares)

    def _marks(
        self, modality: Modality, batch: Mapping[str, Any], questions: list[Asked]
    ) -> tuple[list[Tensor], Tensor]:
        """Of each question the marks [B, ...]; and which samples are known and asked, [Q, B]."""
        marks, known = [], []
        for x in questions:
            of_target, is_known = modality.marks(batch, x.target)
            if x.of is not None:
                is_known = is_known & x.of.to(is_known.device)
            if self.masks == "shuffled":
                of_target, is_known = of_others(of_target, is_known)
            marks.append(of_target)
            known.append(is_known)
        return marks, torch.stack(known)

    def _explained(self, module: Classifier, batch, targets: list[Tensor], source: str) -> list:
        """Relevance for each of the targets, with a graph."""
        trace = module.record(batch, differentiable=self.differentiable)
        if self.method != INPUT_GRADIENT:
            found = module.explain_sources(trace, batch, targets, self.method, **self.options)
            return [of_target[source] for of_target in found]
        log_probabilities = LOG_PROBABILITIES[module.task.activation]
        g = trace.input_gradient(log_probabilities(trace.output).sum())
        grid = tuple(g.shape[-2:]) if g.ndim == 4 else None
        S = g.square().sum(dim=1 if grid else -1).flatten(1)
        each = (relprop.Explanation(S, target, trace.logits, grid) for target in targets)
        return [module.by_source(batch, explanation)[source] for explanation in each]

    # --------------------------------------------------------------------------- before training

    def check(self, module: Classifier) -> None:
        """Whether the model can be trained so, tried on one sample. No random number is drawn.

        Raises:
            InputError: it cannot, because of another option or of what it is.
            MisconfigurationException: no process has the whole model.
        """
        check_whole(module.trainer, "guidance")
        given, precision = module.hparams, str(module.trainer.precision)
        is_low, mix = precision in ("bf16-true", "16-true"), getattr(module, "mix", None)
        refused = {
            "model.mixup or model.cutmix, whose pictures have no mask": mix,
            "model.freeze_backbone, which leaves maps as they are": given.freeze_backbone,
            "data.overlap, by which a text has several maps": given.input_config.get("overlap"),
            f"trainer.precision={precision}, in which maps are lost to rounding": is_low,
        }
        for what, is_given in refused.items():
            if is_given:
                raise InputError(f"guidance with {what}; accepted: one of the two, not both")
        batch, target = module.largest_batch(), torch.zeros(1, dtype=torch.long)
        head = module.head_parameters()
        named = module.backbone.named_parameters()
        trained = [x for name, x in named if x.requires_grad and name not in head]
        has_part = False
        try:
            for name in module.sources:
                (x,) = self._explained(module, batch, [target.to(module.device)], name)
                S = x.relevance.sum()
                grads = torch.autograd.grad(S, trained, allow_unused=True) if trained else []
                has_part |= any(g is not None for g in grads)
        except ValueError as error:
            raise InputError(f"guidance: {error}") from error
        if not has_part:
            raise InputError(
                "guidance: nothing that is trained below the head has a part in the maps; "
                "accepted: other patterns in model.freeze, or guidance=null"
            )


def accepted_of(method: str, values: Sequence[str | None]) -> str:
    """Values of an option that go with a method, in words."""
    return f"{', '.join('null' if x is None else x for x in values)} with {method}"


def of_others(marks: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Marks [B, ...] of which each known sample has another's, and which have one, bool [B]."""
    rows = known.nonzero()[:, 0]
    marks = marks.clone()
    marks[rows] = marks[rows.roll(1)]
    return marks, known & (len(rows) > 1)
