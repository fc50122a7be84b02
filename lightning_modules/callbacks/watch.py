"""What the tracker finds out about the watched samples: numbers, pictures, texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, default_collate

import relprop
from lightning_modules.backgrounds import Backgrounds
from lightning_modules.callbacks.class_formation import report_formation
from lightning_modules.modalities import Explained, Modality
from lightning_modules.modalities.drawing import SHOWN, stack
from lightning_modules.modalities.explained import joined_maps
from lightning_modules.models.explaining import ExplainingModule
from lightning_modules.tasks import Caption, captions_of


@dataclass
class Report:
    """What is logged of an epoch.

    Attributes:
        maps: relevance for the true classes, or for the predicted ones where the true ones are not
            known, [maps, parts of all sources], on the CPU. A sample has one, or where several
            labels may be there one of each that is.
        broken: where values arose that are not finite, which count as 0; None if none did.
        scalars, pictures, texts: by the last part of their tag.
        class_embedding: scalars of how the class forms, by what of their tag comes after that.
    """

    maps: Tensor | None = None
    broken: str | None = None
    scalars: dict[str, Tensor] = field(default_factory=dict)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    class_embedding: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Watch:
    """Explains samples of the data in one epoch, and reports what it finds.

    Attributes:
        module: the classifier.
        data: its data module, or whatever else knows ``class_names``.
        options: ``method`` and the options of the method.
        epoch: the epoch's number.
        watched: which samples they are, for the heading.
        formation: report on how the class forms from block to block.
        report: what it has found so far.
    """

    module: ExplainingModule
    data: Any
    options: dict[str, Any]
    epoch: int
    watched: str = "Validation"
    formation: bool = False
    report: Report = field(default_factory=Report)

    @property
    def signed(self) -> bool:
        """True if the method's negative relevance speaks against the class."""
        return relprop.METHODS.find(self.options["method"]).signed

    def load(self, dataset: Dataset, indices: Sequence[int]) -> dict[str, Any]:
        """A batch of samples, on the module's device."""
        collate = self.data.collate or default_collate
        batch = collate([dataset[i] for i in indices])
        return self.module.transfer_batch_to_device(batch, self.module.device, 0)

    def explain(
        self, batch: dict[str, Any], targets: Sequence[Tensor | None], source: str
    ) -> list[Explained]:
        """The relevance of one source for each of the targets."""
        trace = self.module.record(batch)
        found = self.module.explain_sources(trace, batch, targets, **self.options)
        return [explained[source] for explained in found]

    def samples(self, indices: Sequence[int]) -> Report:
        """Report on samples of the validation set, and on what else the data have to watch."""
        backgrounds = Backgrounds.of(self.module, self.data, self.data.val_dataset)
        notes = {} if backgrounds is None else backgrounds.notes(indices[:SHOWN])
        self.report_on(self.load(self.data.val_dataset, indices), notes)
        for modality in self.module.sources.values():
            modality.watch_more(self, len(indices))
        return self.report

    def report_on(self, batch: dict[str, Any], notes: Mapping[int, str] | None = None) -> Report:
        """Report on a batch: on what its task asks, true and predicted classes, say.

        ``notes``: what the last caption of a sample says beside, by its place in the batch.
        """
        trace, labels = self.module.record(batch), batch.get("label")
        questions = self.module.task.asked(labels, self.module.logits(trace, batch))
        wanted = [question.target for question in questions]
        found = self.module.explain_sources(trace, batch, wanted, **self.options)
        broken = (origin_of_broken(of_target, trace) for of_target in found)
        self.report.broken = next(filter(None, broken), None)
        found = [{name: x.finite() for name, x in of_target.items()} for of_target in found]
        places = [place for place, question in enumerate(questions) if question.of_any]
        scored = [place for place in places if questions[place].scored]
        # Of the true classes, or of the first question where none is known.
        of = {place: questions[place].of for place in scored or places[:1]}
        maps = [asked(joined_maps(found[place]), rows) for place, rows in of.items()]
        self.report.maps = torch.cat(maps).nan_to_num(0).float().cpu()
        if labels is not None and getattr(self.module, "teacher", None) is not None:
            self.report.scalars |= self.drift_of_old(batch, labels)
        pictures, texts = [], []
        for name, modality in self.module.sources.items():
            explained = [of_target[name] for of_target in found]
            prefix = f"{name}/" if len(self.module.sources) > 1 else ""
            maps = torch.cat([asked(explained[place].maps, rows) for place, rows in of.items()])
            scores = {"concentration": concentration(maps).mean()}
            scores |= modality.scores(batch, *(explained[i] for i in scored)) if scored else {}
            self.report.scalars |= {f"{prefix}{score}": x for score, x in scores.items()}
            titles, rows = ([getattr(x, part) for x in questions] for part in ("title", "of"))
            captions = captions_of(explained, titles, self.module.task, labels, rows)
            captions = with_notes(captions, notes or {})
            about = (batch, explained, captions)
            pictures.append(modality.samples_picture(*about, self.heading(modality), self.signed))
            texts.append(modality.samples_text(*about, self.signed))
        self.report.pictures["samples"] = stack(pictures)
        if any(texts):
            self.report.texts["samples"] = "\n".join(filter(None, texts))
        if self.formation:
            report_formation(self, trace, batch)
        return self.report

    def drift_of_old(self, batch: Mapping[str, Any], labels: Tensor) -> dict[str, Tensor]:
        """How far maps of samples of the teacher's classes are from its own, if there are any."""
        teacher = self.module.teacher.on(self.module)
        old = labels < len(teacher.class_names)
        if not old.any():
            return {}
        trace, target = teacher.module.record(batch), labels.clamp(max=len(teacher.class_names) - 1)
        (found,) = teacher.module.explain_sources(trace, batch, [target], **self.options)
        maps = joined_maps({name: x.finite() for name, x in found.items()})
        before = maps.nan_to_num(0).float().cpu()
        return {"drift_of_old": drift(self.report.maps[old.cpu()], before[old.cpu()])}

    def heading(self, modality: Modality) -> str:
        """The line above the picture of the watched samples."""
        mark = "" if self.report.broken is None else " - NOT FINITE, shown as 0"
        watched = f"{self.watched} {modality.called}s, epoch {self.epoch}"
        return f"{self.module.task.question} {watched}{mark}"


def drift(maps: Tensor, before: Tensor) -> Tensor:
    """The mean of 1 - cosine similarity of maps to others, [maps, parts] both; 0 of equal ones."""
    same = (maps == before).all(dim=-1)  # so are maps of zeros
    return (1 - F.cosine_similarity(maps, before)).masked_fill(same, 0).mean()


def with_notes(
    captions: Sequence[Sequence[Caption | None]], notes: Mapping[int, str]
) -> list[list[Caption | None]]:
    """Captions of each explanation, with the note of a sample in the last that it has."""
    found = [list(of_samples) for of_samples in captions]
    for sample, note in notes.items():
        of_sample = next(x for x in reversed(found) if x[sample] is not None)
        of_sample[sample] = replace(of_sample[sample], note=note)
    return found


def asked(maps: Tensor, of: Tensor | None) -> Tensor:
    """The maps of the samples that a question is asked of; see :class:`.tasks.Asked`."""
    return maps if of is None else maps[of.to(maps.device)]


def concentration(maps: Tensor) -> Tensor:
    """1 - entropy / log(parts) of each map's positive part, 0 to 1: [B].

    0: evenly spread over the parts that the model saw, or nowhere; 1: all on one. ``maps``
    [B, parts], NaN on parts that it did not see.
    """
    counts = (~maps.isnan()).sum(dim=-1).clamp(min=2)
    positive = maps.nan_to_num(0).float().cpu().clamp(min=0)
    entropy = torch.special.entr(F.normalize(positive, p=1, dim=-1)).sum(dim=-1)
    return torch.where(positive.any(dim=-1), 1 - entropy / counts.cpu().log(), 0)


def origin_of_broken(explained: dict[str, Explained], trace: relprop.Trace) -> str | None:
    """Where what is not finite in an explanation arose; None where all of it is."""
    for x in explained.values():
        if not x.relevance.isfinite().all():
            return trace.not_finite(x.target[x.sample_of_row]) or "the method itself"
    return None
