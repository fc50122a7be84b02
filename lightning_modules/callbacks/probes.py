"""What the tracker finds out about its probes: numbers, pictures, texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, default_collate

import relprop
from lightning_modules.metrics import ClassSpecificity, Segmentation, TokenF1
from lightning_modules.modalities.images import draw as render
from lightning_modules.modalities.texts import draw as render_text
from lightning_modules.modalities.texts.explained import Explained
from lightning_modules.models.classifier import Classifier


@dataclass
class Report:
    """``maps`` [probes, tokens or words] for the true classes, on the CPU; what is logged.

    ``broken``: where values arose that are not finite, which count as 0; None if none did.
    """

    maps: Tensor
    broken: str | None = None
    scalars: dict[str, Tensor] = field(default_factory=dict)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


def load(module: Classifier, dataset: Dataset, indices: Sequence[int], collate: Callable) -> dict:
    """A batch of samples, on the module's device."""
    batch = collate([dataset[i] for i in indices])
    return module.transfer_batch_to_device(batch, module.device, 0)


def concentration(maps: Tensor, counts: Tensor) -> Tensor:
    """1 - entropy / log(count) of each map's positive part: [B, tokens], counts [B] -> [B].

    0: evenly spread over its ``counts`` tokens, or nowhere; 1: all on one.
    """
    positive = maps.clamp(min=0)
    entropy = torch.special.entr(F.normalize(positive, p=1, dim=-1)).sum(dim=-1)
    return torch.where(positive.any(dim=-1), 1 - entropy / counts.clamp(min=2).log(), 0)


def finite(explained: Explained) -> Explained:
    """The same with 0 for what is not finite."""
    fields = ("relevance", "word_scores")
    there = {name: getattr(explained, name) for name in fields if hasattr(explained, name)}
    return replace(explained, **{name: x.nan_to_num(0, 0, 0) for name, x in there.items()})


def origin_of_broken(explained: Explained, trace: relprop.Trace, target: Tensor) -> str | None:
    """Where what is not finite in an explanation arose; None where all of it is."""
    if explained.relevance.isfinite().all():
        return None
    return trace.not_finite(target) or "the method itself"


def heading(text: str, epoch: int, report: Report) -> str:
    mark = "" if report.broken is None else " - NOT FINITE, shown as 0"
    return f"{text}, epoch {epoch}{mark}"


class ImageProbes:
    """Pictures; segmentation of those with masks, class specificity where there are pairs."""

    collate = staticmethod(default_collate)

    def __init__(self, module: Classifier, data, options: dict) -> None:
        self.module, self.data, self.options = module, data, options

    def report(self, probes: Sequence[int], epoch: int) -> Report:
        batch = load(self.module, self.data.val_dataset, probes, self.collate)
        trace = self.module.record(batch)
        wanted = [batch["label"], None]
        of_true, of_predicted = self.module.explain_classes(trace, batch, wanted, **self.options)
        broken = origin_of_broken(of_true, trace, batch["label"])
        of_true, of_predicted = map(finite, (of_true, of_predicted))
        maps = of_true.relevance.float().cpu()
        report = Report(maps, broken)
        count = torch.full((len(maps),), maps.shape[1])
        report.scalars["concentration"] = concentration(maps, count).mean()
        has_mask = self._has_mask(batch)
        if has_mask.any():
            segmentation = Segmentation(sync_on_compute=False)  # rank 0 alone is here
            heatmaps = of_true.heatmap(batch["image"].shape[-2:]).float().cpu()
            segmentation.update(heatmaps[has_mask], batch["mask"].cpu()[has_mask])
            report.scalars |= segmentation.compute()
        report.pictures["probes"] = render.explanation_picture(
            self._images(batch),
            (of_true, of_predicted),
            ("true: {}", "predicted: {}"),
            self.data.class_names,
            heading("Why each class? Validation samples", epoch, report),
            batch["label"],
        )
        if self.data.pairs_dataset is not None:
            self._add_pairs(report, len(probes), epoch)
        return report

    def _has_mask(self, batch: dict[str, Tensor]) -> Tensor:
        """Which samples of a batch have a mask, bool [B], on the CPU; all where it does not say."""
        known = torch.full((len(batch["label"]),), "mask" in batch)
        return batch.get("has_mask", known).cpu()

    def _add_pairs(self, report: Report, count: int, epoch: int) -> None:
        pairs = self.data.pairs_dataset
        batch = load(self.module, pairs, range(min(count, len(pairs))), self.collate)
        trace = self.module.record(batch)
        specificity = ClassSpecificity(sync_on_compute=False).to(self.module.device)
        both = list(batch["labels"].T)
        explanations = self.module.explain_classes(trace, batch, both, **self.options)
        for one, explanation in enumerate(explanations):
            heatmaps = explanation.heatmap(batch["image"].shape[-2:])
            specificity.update(heatmaps, batch["masks"][:, one], batch["masks"][:, 1 - one])
        report.scalars |= specificity.compute()
        report.pictures["pairs"] = render.explanation_picture(
            self._images(batch),
            explanations,
            ("why {}?", "why {}?"),
            self.data.class_names,
            f"Two objects a scene: why each? Epoch {epoch}",
        )

    def _images(self, batch: dict[str, Tensor]) -> Tensor:
        config = self.data.input_config
        return render.unnormalize(batch["image"], config["mean"], config["std"])


class TextProbes:
    """Coloured words; token F1 where there are rationales, the flipped word where it is known."""

    titles = ("true: {}", "predicted: {}")

    def __init__(self, module: Classifier, data, options: dict) -> None:
        self.module, self.data, self.options = module, data, options
        self.collate = data.collate

    def report(self, probes: Sequence[int], epoch: int) -> Report:
        batch = load(self.module, self.data.val_dataset, probes, self.collate)
        trace = self.module.record(batch)
        wanted = [batch["label"], None]
        of_true, of_predicted = self.module.explain_classes(trace, batch, wanted, **self.options)
        broken = origin_of_broken(of_true, trace, batch["label"][batch["text_of_row"]])
        of_true, of_predicted = map(finite, (of_true, of_predicted))
        maps = of_true.word_scores.float().cpu()
        report = Report(maps, broken)
        seen = of_true.seen.cpu()
        report.scalars["concentration"] = concentration(maps, seen.sum(dim=1)).mean()
        if "rationale" in batch:
            f1 = TokenF1(None, sync_on_compute=False)
            f1.update(maps, batch["rationale"].cpu(), seen)
            report.scalars["token_f1"] = f1.compute()["macro_f1"]
        if self.data.contrast_dataset is not None:
            report.scalars["contrast"] = self._contrast(len(probes))
        texts = render_text.probe_paragraphs(
            (of_true, of_predicted), self.titles, self.data.class_names, batch["label"]
        )
        title = heading("Why each class? Validation texts", epoch, report)
        report.pictures["probes"] = render_text.text_picture(texts, title)
        report.texts["probes"] = render_text.markdown(texts)
        return report

    def _contrast(self, count: int) -> Tensor:
        """How often the one word that makes the difference carries the most relevance."""
        contrast = self.data.contrast_dataset
        batch = load(self.module, contrast, range(min(count, len(contrast))), self.collate)
        trace = self.module.record(batch)
        explained = self.module.explain_trace(trace, batch, batch["label"], **self.options)
        return (explained.word_scores.argmax(dim=1) == batch["flipped_word"]).float().mean()
