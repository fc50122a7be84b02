"""What every classifier can do with its sources: make batches of them, and explain decisions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

import relprop
from lightning_modules.modalities import Explained, Modality
from lightning_modules.models import adapters
from lightning_modules.tasks import Task

SHARDED = (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)


class ExplainingModule(lightning.LightningModule):
    """A module with a ``backbone`` whose decisions are explained.

    A subclass names the :attr:`sources` of a sample, and says what of a batch goes into the
    backbone (:meth:`inputs`).

    Attributes:
        task: what the logits and the labels mean.
    """

    task: Task
    # The contents of its sources are all that a sample is decided by; else protocols, which change
    # them and ask again, do not know of the rest of a batch.
    decides_by_sources = True

    @property
    def activation(self) -> str | None:
        """What makes probabilities of logits; see :class:`lightning_modules.tasks.Task`."""
        return self.task.activation

    @property
    def sources(self) -> dict[str, Modality]:
        """The sources of a sample by name, as its picture, each with its modality."""
        raise NotImplementedError

    @property
    def readings(self) -> dict[str, Modality]:
        """What has a map, by name: each source, and again one that the model reads twice."""
        return self.sources

    def inputs(self, batch: Mapping[str, Tensor]) -> Tensor | dict[str, Tensor]:
        """What the backbone is called with."""
        raise NotImplementedError

    def prepare(self, inputs: Sequence[Any]) -> dict[str, Any]:
        """A batch, on the module's device, of the contents of a source: pictures, or texts.

        Of several sources each input is a mapping with the content of each.
        """
        batch = {}
        for name, modality in self.sources.items():
            contents = [x[name] for x in inputs] if len(self.sources) > 1 else inputs
            batch |= modality.batch(contents)
        return self.transfer_batch_to_device(batch, self.device, 0)

    def part_of(self, batch: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
        """A batch of some of the samples of a batch whose every entry is one a sample."""
        return {
            name: x[list(rows)] if isinstance(x, Tensor) else [x[row] for row in rows]
            for name, x in batch.items()
        }

    def blank(self, inputs: Tensor) -> Tensor:
        """Inputs that show nothing, for :meth:`inputs` of one source; zeros for those of several.

        Of a shape that can be expanded to that of ``inputs``.
        """
        modalities = list(self.sources.values())
        blank = modalities[0].blank(inputs) if len(modalities) == 1 else 0.0
        return torch.as_tensor(blank).to(inputs)

    # ------------------------------------------------------------------------- explanations

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Within, the backbone is as it is explained: adapters are merged into its weights."""
        with adapters.merged(self.backbone):
            yield

    def record(self, batch: Mapping[str, Tensor], **options) -> relprop.Trace:
        """One recorded forward pass, for several methods or classes.

        ``options`` are those of :func:`relprop.record`. A differentiable one leads to the weights
        of adapters, which are not merged then.
        """
        with nullcontext() if options.get("differentiable") else self.merged():
            return relprop.record(self.backbone, self.inputs(batch), **options)

    def logits(self, trace: relprop.Trace, batch: Mapping[str, Tensor]) -> Tensor:
        """Logits [B, C] of the samples of a recorded batch."""
        return trace.logits

    def per_row(self, values: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Values of the samples, [B], as values of the rows that the backbone is given."""
        return values

    def explain_sources(
        self,
        trace: relprop.Trace,
        batch: Mapping[str, Any],
        targets: Sequence[int | Tensor | None],
        method: str = "transformer_attribution",
        **options,
    ) -> list[dict[str, Explained]]:
        """For each of ``targets`` the relevance of every reading, from a recording of the batch.

        ``method`` and ``options`` are those of :func:`relprop.explain_trace`.
        """
        found = relprop.explain_classes(trace, targets, method, **options)
        return [self.by_source(batch, explanation) for explanation in found]

    def by_source(
        self, batch: Mapping[str, Any], explanation: relprop.Explanation
    ) -> dict[str, Explained]:
        """An explanation of the engine's as that of each of :attr:`readings`.

        A classifier of several overrides it, and cuts the explanation up.
        """
        check_one_source(explanation)
        ((name, modality),) = self.sources.items()
        return {name: modality.explained(batch, explanation)}

    def explain_classes(
        self,
        trace: relprop.Trace,
        batch: Mapping[str, Any],
        targets: Sequence[int | Tensor | None],
        method: str = "transformer_attribution",
        **options,
    ) -> list[Explained | dict[str, Explained]]:
        """As :meth:`explain_trace` for each of ``targets``, in one backward pass."""
        found = self.explain_sources(trace, batch, targets, method, **options)
        return [x if len(x) > 1 else next(iter(x.values())) for x in found]

    def explain_trace(
        self,
        trace: relprop.Trace,
        batch: Mapping[str, Any],
        target: int | Tensor | None = None,
        method: str = "transformer_attribution",
        **options,
    ) -> Explained | dict[str, Explained]:
        """As :meth:`explain`, from a recording of the same batch."""
        return self.explain_classes(trace, batch, [target], method, **options)[0]

    def explain(
        self,
        batch: Mapping[str, Any],
        target: int | Tensor | None = None,
        method: str = "transformer_attribution",
        **options,
    ) -> Explained | dict[str, Explained]:
        """The relevance behind each decision; of several sources, by name.

        ``target``, ``method`` and ``options`` are those of :func:`relprop.explain_trace`.
        """
        relprop.check_method(method, options)
        return self.explain_trace(self.record(batch), batch, target, method, **options)


def check_one_source(explanation: relprop.Explanation) -> None:
    """Raises UnsupportedModel where the model takes its input in several forms."""
    if explanation.several:
        names = ", ".join(explanation.several)
        raise relprop.UnsupportedModel(
            f"the model has {len(explanation.several)} sources of relevance ({names}), and a "
            "classifier of one input has one map; accepted: relprop.explain, which has a map of "
            "each, or a classifier whose by_source takes them"
        )


def check_whole(trainer: lightning.Trainer, section: str) -> None:
    """Raises MisconfigurationException, for a section of the config, if the model is in shards."""
    if isinstance(trainer.strategy, SHARDED):
        raise MisconfigurationException(
            f"{section}: with {type(trainer.strategy).__name__} no process has the whole model "
            f"to explain; accepted: trainer.strategy=ddp, or {section}=null"
        )
