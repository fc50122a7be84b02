"""Explains a fixed set of samples each epoch, and logs how the reasons change."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import Subset

import relprop
from lightning_modules.callbacks.class_formation import check_formation
from lightning_modules.callbacks.every import Every
from lightning_modules.callbacks.foreign import Foreign, refused
from lightning_modules.callbacks.registry import CALLBACKS
from lightning_modules.callbacks.shown import pictures_are_shown, publish
from lightning_modules.callbacks.sources import check_source
from lightning_modules.callbacks.watch import Report, Watch, drift
from lightning_modules.models.explaining import ExplainingModule, check_whole
from lightning_modules.models.told import Told
from lightning_modules.protocols import MODEL, PROTOCOLS, Protocol, evaluate, values_of
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.options import Checked, Count, Range, Seed, check_option


@CALLBACKS.register("RelevanceTracker")
class RelevanceTracker(Checked, Callback):
    """Logs relevance maps of watched samples, in pictures and in numbers, each epoch.

    It is a callback of any module that holds a classifier of timm or of Hugging Face:
    ``Trainer(callbacks=[RelevanceTracker(val_batch)])``. The same samples are watched in every
    epoch, after validation, or where there is none at the end of the epoch. Tags:

    - ``explanations/samples``: each sample with its map for the true class and its map for the
      predicted class, also as ``run_dir/explanations/epoch=NNN.png``; texts as text, too.
      ``explanations/pairs``: scenes with two objects, the map for the class of each.
    - ``relevance/drift``: 1 - cosine similarity to the last epoch's map, 0 (same reasons) to 1
      (2 where relevance is signed); ``relevance/drift_of_old``: the same to the maps of the run of
      ``model.previous``, of the samples of its classes; ``relevance/concentration``: 1 - entropy /
      log(tokens), 0 (even) to 1 (one token).
    - ``relevance/pixel_accuracy``, ``mIoU``, ``mAP`` of the samples that have a mask;
      ``relevance/class_specificity`` where the data have pairs (0.5: class-blind);
      ``relevance/token_f1`` where they have rationales; ``relevance/contrast``, how often the word
      that flips the label carries the most relevance, where that word is known.
    - ``protocols/<protocol>/<score>``: the ``protocols`` asked for, on the watched samples (on the
      first pairs, for ``specificity``), each ``protocols_every_n_epochs``.
    - ``class_embedding/<tokens>/block_<b>``, where asked for: how well the class can be told from
      single tokens of a block (:class:`~lightning_modules.metrics.Identifiability`), of the
      ``class_token``, the ``patches``, those of the ``object`` and of the ``background``; and
      ``explanations/blocks``, the logit of the class in each token of each block.
    - ``relevance/seconds``: what all this cost; ``protocols/seconds``, what of it the protocols.

    A classifier with several sources has the figures of each as ``relevance/<source>/<figure>``.
    Several trackers in one trainer are told apart by ``model``, ``relevance/<model>/drift``, and
    those of one model by ``method``: the first has the plain names, ``relevance/attnlrp/drift`` is
    of another.
    Training is untouched: no random numbers are drawn, no state is changed. Masks, pairs,
    rationales and protocols are those of a classifier and data of ``lightning_modules``.

    Args:
        source: what the watched samples come from: a batch, of which they are the first; a loader
            or a data set, of which ``seed`` draws them (of what only yields batches, the first
            batch). None: the validation set.
        run_dir: the folder that the pictures go to; None: they go to the loggers alone.
        samples: number of watched samples (and of pairs).
        every_n_epochs: a report comes with the first validation at or after each so many epochs.
        method: name in ``relprop.METHODS``.
        start_layer: first block of the product methods.
        protocols: names in ``lightning_modules.protocols.PROTOCOLS`` to score the method by.
        protocols_every_n_epochs: a scoring comes with the first report after each so many epochs.
        class_embedding: report as well how the class forms from block to block.
        seed: of the choice of samples.
        model: the attribute that is the classifier, dotted, or ``"forward"``: the module itself.
            None: the only classifier of timm or Hugging Face in it; the module itself if it has
            none.
        inputs: makes of a batch what the classifier is called with, a tensor or keywords. None:
            a tensor, the first of (inputs, labels), or what of a dict it has arguments for.
        labels: makes of a batch the true classes, [B], less than 0 where a sample has none. None:
            the second of (inputs, labels), or ``label``, ``labels``, ``target``, ``targets`` or
            ``y``; without any the predicted classes alone are explained.
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
        start_layer: Annotated[int, Range(0)] = 0,
        protocols: list[str] | None = None,
        protocols_every_n_epochs: Count = 5,
        class_embedding: bool = False,
        seed: Seed = 0,
        model: str | None = None,
        inputs: Callable[[Any], Any] | None = None,
        labels: Callable[[Any], Any] | None = None,
        class_names: Sequence[str] | None = None,
        normalisation: tuple[Any, Any] | None = None,
        tokenizer: Any = None,
    ) -> None:
        check_source(source)
        is_path = run_dir is None or isinstance(run_dir, (str, Path))
        check_option("run_dir", run_dir, is_path, "a path, or None")
        several = protocols is None or isinstance(protocols, Sequence)
        several = several and not isinstance(protocols, str)
        check_option("protocols", protocols, several, "a list of names, or None")
        self.protocols = list(protocols or [])
        for name in self.protocols:
            PROTOCOLS.find(name, f"protocols has {name!r}")
        relprop.METHODS.find(method)
        relprop.check_method(method, {"start_layer": start_layer})
        self.folder = None if run_dir is None else Path(run_dir) / "explanations"
        self.samples, self.seed = samples, seed
        self.reports, self.scorings = Every(every_n_epochs), Every(protocols_every_n_epochs)
        self.options = {"method": method, "start_layer": start_layer}
        self.told = Told(model, inputs, labels, class_names, normalisation, tokenizer)
        self.class_embedding = class_embedding
        self.foreign = Foreign(source, samples, seed, self.told, self.options, class_embedding)
        self.tracker = ""  # the name of this one in tags and files, where there are several
        self.known_by = {"model": model, "method": method}  # in a checkpoint; less, once in use
        self.plain_is_others = False  # the key of a tracker alone is that of another one
        self.is_foreign = False  # known when training begins
        self.indices: list[int] = []
        self.last_maps: Tensor | None = None  # [samples, tokens], on the CPU

    @property
    def state_key(self) -> str:
        """Trackers of different models or methods are kept apart in a checkpoint."""
        known_by = {name: value for name, value in self.known_by.items() if value is not None}
        return self._generate_state_key(**known_by) if known_by else super().state_key

    @property
    def _legacy_state_key(self) -> str:
        """Lightning looks there second: a tracker had this key whatever its model was."""
        return self.state_key if self.plain_is_others else super().state_key

    def state_dict(self) -> dict:
        return {
            "samples": self.indices,
            "last_maps": self.last_maps,
            "options": self.options,
            "model": self.told.model,
            "reported": self.reports.latest,
            "scored": self.scorings.latest,
        }

    def load_state_dict(self, state: dict) -> None:
        self.reports.latest, self.scorings.latest = state.get("reported"), state.get("scored")
        same = state.get("options", self.options) == self.options
        if same and state.get("model", self.told.model) == self.told.model:  # else not compared
            # "probes" in the runs of version 0.1.0
            self.indices = state["samples"] if "samples" in state else state["probes"]
            self.last_maps = state["last_maps"]

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Find a name among other trackers.

        Come before what averages weights, which has the averages in place until its turn.
        """
        callbacks = trainer.callbacks
        trackers = [x for x in callbacks if isinstance(x, RelevanceTracker)]
        alike = [x for x in trackers if x.told.model == self.told.model]
        model, method = self.told.model, self.options["method"]
        self.known_by = {"model": model, "method": None if alike[0] is self else method}
        self.plain_is_others = any(x is not self and x.told.model is None for x in trackers)
        names = [model if len(trackers) > 1 else None, self.known_by["method"]]
        self.tracker = "-".join(filter(None, names))
        place = next((i for i, x in enumerate(callbacks) if isinstance(x, WeightAveraging)), None)
        if place is not None and place < callbacks.index(self):
            others = [x for x in callbacks if x is not self]
            trainer.callbacks = [*others[:place], self, *others[place:]]

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        check_whole(trainer, "tracker")
        shown = (
            self.folder is not None or pictures_are_shown(trainer.loggers) or trainer.fast_dev_run
        )
        if not shown:
            rank_zero_warn(
                "RelevanceTracker: no logger shows its pictures, and they are written nowhere; "
                "accepted: run_dir= a folder for them, or a logger such as TensorBoardLogger"
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
            trace = module.record(first)
            module.explain_sources(trace, first, [None], **self.options)
            if self.class_embedding:
                check_formation(module, trace)
        except ValueError as error:
            message = refused(error, "a model that can be explained so")
            raise MisconfigurationException(f"tracker: {message}, or tracker=null") from error

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
        if not self.reports.comes(trainer.current_epoch):
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
                report.scalars["drift"] = drift(report.maps, self.last_maps)
            self.last_maps = report.maps
            self._publish(trainer, report)
            if self.protocols and self.scorings.comes(trainer.current_epoch):
                with module.merged():
                    self._log_protocols(trainer, module)
            report.scalars["seconds"] = time.perf_counter() - started
            for name, value in report.scalars.items():
                self._log(module, "relevance", name, float(value))
            for name, value in report.class_embedding.items():
                self._log(module, "class_embedding", name, float(value))
        trainer.strategy.barrier("relevance tracker")

    def _log(self, module: LightningModule, kind: str, name: str, value: float) -> None:
        tag = "/".join(filter(None, [kind, self.tracker, name]))
        module.log(tag, value, rank_zero_only=True)

    def _protocols(self, trainer: Trainer, module: ExplainingModule) -> list[Protocol]:
        """Those asked for, with the watched samples for test set."""
        data = copy.copy(trainer.datamodule)
        data.test_dataset = Subset(data.val_dataset, self.indices)
        return [PROTOCOLS[name](module, data) for name in self.protocols]

    def _log_protocols(self, trainer: Trainer, module: ExplainingModule) -> None:
        started = time.perf_counter()
        options = {"start_layer": self.options["start_layer"]}
        for protocol in self._protocols(trainer, module):
            method = MODEL if protocol.of_model else self.options["method"]
            *_, progress = evaluate(protocol, [method], options, len(self.indices))
            if method in progress.refused:
                rank_zero_warn(f"{protocol.name} has no score: {progress.refused[method]}")
                continue
            values = values_of(progress.metrics[method])
            for column in protocol.columns:
                if (column.name, column.x) not in values:
                    continue  # it has no meaning for the method
                place = "" if column.x is None else f"@{column.x:g}"
                value = values[column.name, column.x]
                score = f"{column.name.replace('/', '_')}{place}"
                self._log(module, "protocols", f"{protocol.name}/{score}", value)
        seconds = time.perf_counter() - started
        self._log(module, "protocols", "seconds", seconds)

    def _watch(self, trainer: Trainer, module: ExplainingModule) -> Watch:
        data, epoch = trainer.datamodule, trainer.current_epoch
        return Watch(module, data, self.options, epoch, formation=self.class_embedding)

    def _publish(self, trainer: Trainer, report: Report) -> None:
        publish(trainer, report, self.folder, self.tracker)
