"""Explains a fixed set of samples each epoch, and logs how the reasons change."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from PIL import Image
from torch import Tensor
from torch.utils.data import Subset

import relprop
from lightning_modules.callbacks.foreign import Foreign
from lightning_modules.callbacks.sources import ACCEPTED
from lightning_modules.callbacks.watch import Report, Watch
from lightning_modules.loggers import show_picture, show_text
from lightning_modules.models.adopted import Told
from lightning_modules.models.explaining import ExplainingModule
from lightning_modules.protocols import PROTOCOLS, Protocol, evaluate, values_of
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.files import replace_file
from lightning_modules.utils.options import Checked, Count, Seed

SHARDED = (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)


class RelevanceTracker(Checked, Callback):
    """Logs relevance maps of watched samples, in pictures and in numbers, each epoch.

    It is a callback of any module that holds a classifier of timm or of Hugging Face:
    ``Trainer(callbacks=[RelevanceTracker(val_batch)])``. The same samples are watched in every
    epoch, after validation, or where there is none at the end of the epoch. Tags:

    - ``explanations/samples``: each sample with its map for the true class and its map for the
      predicted class, also as ``run_dir/explanations/epoch=NNN.png``; texts as text, too.
      ``explanations/pairs``: scenes with two objects, the map for the class of each.
    - ``relevance/drift``: 1 - cosine similarity to the last epoch's map, 0 (same reasons) to 1
      (2 where relevance is signed); ``relevance/concentration``: 1 - entropy / log(tokens), 0
      (even) to 1 (one token).
    - ``relevance/pixel_accuracy``, ``mIoU``, ``mAP`` of the samples that have a mask;
      ``relevance/class_specificity`` where the data have pairs (0.5: class-blind);
      ``relevance/token_f1`` where they have rationales; ``relevance/contrast``, how often the word
      that flips the label carries the most relevance, where that word is known.
    - ``protocols/<protocol>/<score>``: the ``protocols`` asked for, on the watched samples (on the
      first pairs, for ``specificity``), each ``protocols_every_n_epochs``.
    - ``relevance/seconds``: what all this cost; ``protocols/seconds``, what of it the protocols.

    A classifier with several sources has the figures of each as ``relevance/<source>/<figure>``.
    Training is untouched: no random numbers are drawn, no state is changed. Masks, pairs,
    rationales and protocols are those of a classifier and data of ``lightning_modules``.

    Args:
        source: what the watched samples come from: a batch, of which they are the first; a loader
            or a data set, of which ``seed`` draws them (of what only yields batches, the first
            batch). None: the validation set.
        run_dir: the folder that the pictures go to; None: they go to the loggers alone.
        samples: number of watched samples (and of pairs).
        every_n_epochs: epochs from one report to the next.
        method: name in ``relprop.METHODS``.
        start_layer: first block of the product methods.
        protocols: names in ``lightning_modules.protocols.PROTOCOLS`` to score the method by.
        protocols_every_n_epochs: epochs from one scoring to the next.
        seed: of the choice of samples.
        model: the attribute that is the classifier, dotted, or ``"forward"``: the module itself.
            None: the only classifier of timm or Hugging Face in it; the module itself if it has
            none.
        inputs: makes of a batch what the classifier is called with, a tensor or keywords. None:
            a tensor, the first of (inputs, labels), or what of a dict it has arguments for.
        labels: makes of a batch the true classes, [B]. None: the second of (inputs, labels), or
            ``label``, ``labels``, ``target``, ``targets`` or ``y``; without any the predicted
            classes alone are explained.
        class_names: in the order of the labels. None: those of the model's ``id2label``, or
            numbers.
        normalisation: mean and std of pictures. None: those of timm's model, or such that the
            watched pictures span all values.
        tokenizer: Hugging Face's, to draw words; None: numbers of tokens are drawn.
    """

    def __init__(
        self,
        source: Any = None,
        *,
        run_dir: str | Path | None = None,
        samples: Count = 32,
        every_n_epochs: Count = 1,
        method: str = "transformer_attribution",
        start_layer: int = 0,
        protocols: list[str] | None = None,
        protocols_every_n_epochs: Count = 5,
        seed: Seed = 0,
        model: str | None = None,
        inputs: Callable[[Any], Any] | None = None,
        labels: Callable[[Any], Any] | None = None,
        class_names: Sequence[str] | None = None,
        normalisation: tuple[Any, Any] | None = None,
        tokenizer: Any = None,
    ) -> None:
        if isinstance(source, (str, Path)):
            raise InputError(f"source is {str(source)!r}; {ACCEPTED}, or run_dir={str(source)!r}")
        self.protocols = protocols or []
        self.protocols_every_n_epochs = protocols_every_n_epochs
        for name in self.protocols:
            PROTOCOLS.find(name, f"tracker.protocols has {name!r}")
        relprop.METHODS.find(method, f"tracker.method is {method!r}")
        relprop.check_method(method, {"start_layer": start_layer})
        self.folder = None if run_dir is None else Path(run_dir) / "explanations"
        self.samples, self.every_n_epochs, self.seed = samples, every_n_epochs, seed
        self.options = {"method": method, "start_layer": start_layer}
        told = Told(model, inputs, labels, class_names, normalisation, tokenizer)
        self.foreign = Foreign(source, samples, seed, told, self.options)
        self.is_foreign = False  # known when training begins
        self.indices: list[int] = []
        self.last_maps: Tensor | None = None  # [samples, tokens], on the CPU

    def state_dict(self) -> dict:
        return {"samples": self.indices, "last_maps": self.last_maps, "options": self.options}

    def load_state_dict(self, state: dict) -> None:
        if state.get("options", self.options) == self.options:  # else there is nothing to compare
            # "probes" in the runs of version 0.1.0
            self.indices = state["samples"] if "samples" in state else state["probes"]
            self.last_maps = state["last_maps"]

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        if isinstance(trainer.strategy, SHARDED):
            raise MisconfigurationException(
                f"tracker: with {type(trainer.strategy).__name__} no process has the whole model "
                "to explain; accepted: trainer.strategy=ddp, or tracker=null"
            )
        self.foreign.forget()
        self.is_foreign = self.foreign.is_needed(trainer, module)
        if not self.is_foreign:
            self._begin(trainer, module)
        elif self.protocols:
            raise MisconfigurationException(
                "RelevanceTracker: protocols score classifiers of lightning_modules on data of "
                "theirs; accepted of others: protocols=None"
            )

    def _begin(self, trainer: Trainer, module: ExplainingModule) -> None:
        """Choose samples of our own data, and explain one of them."""
        dataset = trainer.datamodule.val_dataset
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(self.seed))
        self._choose(order[: self.samples].tolist())
        try:
            for protocol in self._protocols(trainer, module):
                protocol.samples()
        except InputError as error:  # in the words of explain.py
            reason = str(error).removeprefix("--protocol ")
            raise InputError(f"tracker.protocols: {reason}") from error
        # A model that cannot be explained, or a block that is not there, should be known now.
        watch = self._watch(trainer, module)
        first = watch.load(dataset, self.indices[:1])
        try:
            module.explain_sources(module.record(first), first, [None], **self.options)
        except ValueError as error:
            raise MisconfigurationException(
                f"tracker: {error}; accepted: a model that can be explained so, or tracker=null"
            ) from error

    def _choose(self, indices: list[int]) -> None:
        """Which samples are watched; the last maps are those of others, or of none."""
        if indices != self.indices:  # none yet; or a resume that asks for others
            self.indices, self.last_maps = indices, None

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if self.is_foreign and self.foreign.is_there(trainer):
            self._choose(self.foreign.prepare(trainer, module))

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self.is_foreign and not trainer.enable_validation:
            self._report(trainer, module)

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        if self.is_foreign and self.foreign.watched is None:
            self._choose(self.foreign.prepare(trainer, module))
        self._report(trainer, module)

    def _report(self, trainer: Trainer, module: LightningModule) -> None:
        """Explain, log and draw, in the first process; the others wait."""
        if trainer.current_epoch % self.every_n_epochs:
            return
        if trainer.is_global_zero:
            started = time.perf_counter()
            if self.is_foreign:
                report = self.foreign.report(module, trainer.current_epoch)
            else:
                report = self._watch(trainer, module).samples(self.indices)
            if report.broken is not None:
                rank_zero_warn(
                    f"epoch {trainer.current_epoch}: relevance is not finite, first in "
                    f"{report.broken}; it is shown as 0"
                )
            if self.last_maps is not None and self.last_maps.shape == report.maps.shape:
                similarity = F.cosine_similarity(report.maps, self.last_maps)
                same = (report.maps == self.last_maps).all(dim=-1)  # so are maps of zeros
                report.scalars["drift"] = (1 - similarity).masked_fill(same, 0).mean()
            self.last_maps = report.maps
            self._publish(trainer, report)
            if self.protocols and trainer.current_epoch % self.protocols_every_n_epochs == 0:
                self._log_protocols(trainer, module)
            report.scalars["seconds"] = time.perf_counter() - started
            for name, value in report.scalars.items():
                module.log(f"relevance/{name}", float(value), rank_zero_only=True)
        trainer.strategy.barrier("relevance tracker")

    def _protocols(self, trainer: Trainer, module: ExplainingModule) -> list[Protocol]:
        """Those asked for, with the watched samples for test set."""
        data = copy.copy(trainer.datamodule)
        data.test_dataset = Subset(data.val_dataset, self.indices)
        return [PROTOCOLS[name](module, data) for name in self.protocols]

    def _log_protocols(self, trainer: Trainer, module: ExplainingModule) -> None:
        started = time.perf_counter()
        method = self.options["method"]
        options = {"start_layer": self.options["start_layer"]}
        for protocol in self._protocols(trainer, module):
            *_, progress = evaluate(protocol, [method], options, len(self.indices))
            if method in progress.refused:
                rank_zero_warn(f"{protocol.name} has no score: {progress.refused[method]}")
                continue
            values = values_of(progress.metrics[method])
            for column in protocol.columns:
                place = "" if column.x is None else f"@{column.x:g}"
                value = values[column.name, column.x]
                tag = f"protocols/{protocol.name}/{column.name.replace('/', '_')}{place}"
                module.log(tag, value, rank_zero_only=True)
        seconds = time.perf_counter() - started
        module.log("protocols/seconds", seconds, rank_zero_only=True)

    def _watch(self, trainer: Trainer, module: ExplainingModule) -> Watch:
        return Watch(module, trainer.datamodule, self.options, trainer.current_epoch)

    def _publish(self, trainer: Trainer, report: Report) -> None:
        """Pictures into the run's folder and the loggers, texts into the loggers."""
        step = trainer.global_step - 1  # where Lightning logs the end of an epoch
        for tag, picture in report.pictures.items():
            if self.folder is not None:
                self.folder.mkdir(parents=True, exist_ok=True)
                prefix = "" if tag == "samples" else f"{tag}-"
                path = self.folder / f"{prefix}epoch={trainer.current_epoch:03d}.png"
                image = Image.fromarray(picture)
                replace_file(path, lambda file, image=image: image.save(file, format="png"))
            show_picture(trainer.loggers, f"explanations/{tag}", picture, step)
        for tag, text in report.texts.items():
            show_text(trainer.loggers, f"explanations/{tag}", text, step)
