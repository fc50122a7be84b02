"""Class-incremental training: a loss on what differs from the classifier that a run goes on from.

"SATS: Self-Attention Transfer for Continual Semantic Segmentation" (Qiu et al., Pattern Recognition
138, 2023), for classification.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

import relprop
from lightning_modules.models.classifier import Classifier
from lightning_modules.models.explaining import check_whole
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.options import Checked, NotNegative
from relprop.sides import Side

METHOD = "generic_attention"  # of the teacher, whose map says which tokens are a region


def attention_transfer(A: Tensor, of_teacher: Tensor, regions: Tensor) -> Tensor:
    """How far attention differs from the teacher's, of each sample, [B].

    l_j = mean_c mean_h || abar_jch - abar'_jch ||, where abar_jch is the mean over the queries of
    region c of A[j, h, q, :], a vector over keys; the mean is over the regions that have a query.
    0 without one. The norm is Euclidean, not squared; its gradient at 0 is 0.

    With one region a class it is the paper's loss of a block, with one of all queries its variant
    GP, and with a region each query its variant NP.

    Args:
        A, of_teacher: attention of one block, [B, H, L, S], of L queries to S keys.
        regions: True on the queries of a region, bool [B, C, L].
    """
    queries = regions.sum(dim=-1)  # [B, C]
    weights = regions.to(A) / queries.clamp(min=1)[..., None]
    difference = torch.einsum("bcq, bhqs -> bchs", weights, A - of_teacher)
    # vector_norm's gradient at 0 is 0: in the first step, student and teacher are equal.
    distances = torch.linalg.vector_norm(difference, dim=-1).mean(dim=-1)  # [B, C]
    present = queries > 0
    return (distances * present).sum(dim=-1) / present.sum(dim=-1).clamp(min=1)


def kept_decisions(logits: Tensor, of_teacher: Tensor) -> Tensor:
    """-sum_k p'_k log p_k over the teacher's classes, of each sample, [B].

    Both are probabilities among the C' classes of the teacher alone (Li, Hoiem, "Learning without
    Forgetting", ECCV 2016, at temperature 1).

    Args:
        logits: [B, C]; the first C' are those of the teacher's classes.
        of_teacher: its logits, [B, C'].
    """
    log_p = logits[:, : of_teacher.shape[1]].log_softmax(dim=-1)
    return -(of_teacher.softmax(dim=-1) * log_p).sum(dim=-1)


def of_patches(marks: Tensor, sides: tuple[Side, Side]) -> Tensor:
    """The largest of the pixels of each patch, which may overlap: [B, H, W] -> [B, rows, columns].

    Args:
        sides: where patches lie along the height and the width.
    """
    (above, below), (left, right) = (
        (-x.first, x.first + (x.count - 1) * x.stride + x.length - x.size) for x in sides
    )
    marks = F.pad(marks, (left, right, above, below))  # less than 0: what no patch sees is cut off
    lengths, strides = [x.length for x in sides], [x.stride for x in sides]
    return F.max_pool2d(marks[:, None], lengths, strides)[:, 0]


class Distillation(Checked):
    """A loss on what differs from the run's teacher, the classifier of ``model.previous``.

    For the attention, samples are run a second time, in evaluation and in the parameters' own
    precision, and so is the teacher.

    Args:
        attention: weight of the difference of the attention maps; 20 as published. 0: none.
        logits: weight of the cross-entropy with the teacher's probabilities of its classes. 0:
            none.
        region: whose rows of a map are compared. ``mask``: the mean row of the tokens of the object
            or of the rationale; ``relevance``: that of the tokens above the mean of the teacher's
            map of the class that it decides for; ``global``: that of all tokens; ``all``: each row
            by itself.
        blocks: ``all``: the mean over all blocks; ``last``: the last block alone.
    """

    def __init__(
        self,
        *,
        attention: NotNegative = 20.0,
        logits: NotNegative = 1.0,
        region: Literal["mask", "relevance", "all", "global"] = "relevance",
        blocks: Literal["all", "last"] = "all",
    ) -> None:
        self.attention, self.logits = attention, logits
        self.region, self.blocks = region, blocks

    @property
    def of_masks(self) -> bool:
        """True if it needs the masks of the training samples."""
        return self.region == "mask" and self.attention > 0

    def __str__(self) -> str:
        blocks = {"all": "all blocks", "last": "last block"}[self.blocks]
        of_maps = f" ({self.region}, {blocks})" * bool(self.attention)
        return f"attention {self.attention:g}{of_maps}, logits {self.logits:g}"

    # ----------------------------------------------------------------------------- in a step

    def __call__(self, module: Classifier, batch: Mapping[str, Any], logits: Tensor) -> Tensor:
        """What is added to the loss of a batch with the logits [B, C]."""
        loss = logits.new_zeros(())
        if self.attention:
            distance = self.of_attention(module, batch).mean()
            module.log("train/distill_attention", distance.detach(), sync_dist=True)
            loss = loss + self.attention * distance
        if self.logits:
            before = module.teacher.on(module).logits(batch)
            distance = kept_decisions(logits, before).mean()
            module.log("train/distill_logits", distance.detach(), sync_dist=True)
            loss = loss + self.logits * distance
        return loss

    def of_attention(self, module: Classifier, batch: Mapping[str, Any]) -> Tensor:
        """The difference of the attention, of each sample, [B]."""
        teacher = module.teacher.on(module).module
        before = teacher.record(batch)
        regions = self._regions(teacher, batch, before)
        trace = module.record(batch, differentiable="attention")
        pairs = list(zip(trace.attention, before.attention, strict=True))
        pairs = pairs[-1:] if self.blocks == "last" else pairs
        return torch.stack([attention_transfer(*pair, regions) for pair in pairs]).mean(dim=0)

    def _regions(
        self, teacher: Classifier, batch: Mapping[str, Any], trace: relprop.Trace
    ) -> Tensor:
        """The queries of each region, bool [B, C, L], in a recording of the teacher."""
        count, samples = trace.tokens, len(trace.logits)
        valid = trace.valid
        if valid is None:
            valid = torch.ones(samples, count, dtype=torch.bool, device=trace.logits.device)
        if self.region == "global":
            return valid[:, None]
        if self.region == "all":
            return torch.eye(count, dtype=torch.bool, device=valid.device) & valid[:, None]
        ((name, modality),) = teacher.sources.items()
        if self.region == "mask":
            marks, known = modality.marks(batch, batch["label"])
            if marks.ndim == 3:  # of pixels
                marks = of_patches(marks.to(trace.logits), trace.places.sides)
            tokens = marks.flatten(1).bool().to(valid.device) & known.to(valid.device)[:, None]
        else:
            (found,) = teacher.explain_sources(trace, batch, [None], METHOD)
            S = found[name].relevance
            of_input = valid[:, trace.prefix :]
            tokens = S > ((S * of_input).sum(dim=1) / of_input.sum(dim=1))[:, None]
        return (F.pad(tokens, (trace.prefix, 0)) & valid)[:, None]

    # --------------------------------------------------------------------------- before training

    def check(self, module: Classifier) -> None:
        """Whether the model can be trained so, tried on one sample. No random number is drawn.

        Raises:
            InputError: it cannot, because of another option or of what it is.
            MisconfigurationException: no process has the whole model.
        """
        check_whole(module.trainer, "distill")
        if module.teacher is None:
            raise InputError(
                "distill: there is no classifier to go on from; accepted: model.previous=RUN, or "
                "distill=null"
            )
        given, of_maps = module.hparams, self.attention > 0
        refused = {
            "model.mixup or model.cutmix, whose labels are shares": getattr(module, "mix", None),
            "model.freeze_backbone, which leaves attention as it is": (
                of_maps and given.freeze_backbone
            ),
            "data.overlap, by which a text has several maps": (
                of_maps and given.input_config.get("overlap")
            ),
        }
        for what, is_given in refused.items():
            if is_given:
                raise InputError(f"distill with {what}; accepted: one of the two, not both")
        if of_maps:
            self._check_attention(module)

    def _check_attention(self, module: Classifier) -> None:
        accepted = "accepted: a ViT or a BERT, or distill.attention=0"
        if len(module.sources) > 1:
            raise InputError(f"distill.attention: the model has several sources; {accepted}")
        batch = module.largest_batch()
        try:
            trace = module.record(batch)
            count, maps = trace.tokens, trace.attention
            if any(A.shape[0] != 1 or A.shape[-2] != count for A in maps):
                raise ValueError(
                    "attention is not of the same tokens in every layer; accepted: a ViT or a BERT "
                    "of which it is, without model.parts and model.pool=attention, or "
                    "distill.attention=0"
                )
            trace.prefix  # noqa: B018 (UnsupportedModel where tokens are not those of the input)
        except (ValueError, relprop.UnsupportedModel) as error:
            raise InputError(f"distill.attention: {error}") from error
        of_teacher = module.teacher.on(module).module.record(batch).attention
        ours, theirs = ([list(A.shape[1:]) for A in x] for x in (maps, of_teacher))
        if ours != theirs:
            raise InputError(
                f"distill.attention: attention maps [heads, queries, keys] are {ours}, and those "
                f"of model.previous {theirs}; accepted: the model options of that run"
            )
