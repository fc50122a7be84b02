"""What image and text classifiers share: loss, metrics, optimiser, schedule, explanations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import lightning
import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from lightning_modules.metrics import ClassIncremental
from lightning_modules.models.adapters import Lora
from lightning_modules.models.schedule import Scheduled
from lightning_modules.models.trained_part import TrainedPart
from lightning_modules.tasks import make_task, precise
from lightning_modules.utils.errors import InputError, as_input_error
from lightning_modules.utils.names import tag
from lightning_modules.utils.options import NotNegative, Range, Seed
from relprop.recording.eager import eagerly
from relprop.registry import Registry

if TYPE_CHECKING:
    from lightning_modules.distillation import Distillation
    from lightning_modules.guidance import Guidance
    from lightning_modules.models.teacher import Teacher


class Classifiers(Registry[type["Classifier"]]):
    """Classifiers by the name that configs and checkpoints give them."""

    def add(self, name: str, thing: type[Classifier], source: Callable) -> None:
        super().add(name, thing, source)
        thing.kind = name


CLASSIFIERS = Classifiers("model")


class Classifier(Scheduled, TrainedPart):
    """Fine-tunes a backbone and explains its decisions.

    A subclass sets ``self.backbone``, which stays its library's own model, and says what its
    samples are made of (:attr:`sources`), what of a batch goes into the backbone (:meth:`inputs`)
    and how its parameters are grouped (:meth:`parameter_groups`). With the backbone in place its
    constructor calls :meth:`choose_trained`. It declares the arguments of its
    own and those whose defaults it changes, and hands ``**options`` on. All arguments become
    hyper-parameters, and are plain values so that checkpoints load with ``weights_only=True``.

    Args:
        class_names: the classes, in the order of their labels.
        input_config: how the data were made into inputs; kept with the checkpoint.
        freeze_backbone: train the classification head alone.
        freeze: parameters that are not trained, as patterns of their names; see
            :func:`.freezing.freeze`.
        lora: options of :class:`.adapters.Lora`: train adapters in the blocks, and the head, and
            nothing else. None: there are no adapters.
        compile: ``torch.compile`` the backbone for training.
        lr: peak learning rate.
        warmup: share of all steps in which it rises.
        weight_decay: none on biases, norms, class token and position embeddings.
        layer_decay: factor of the learning rate from each block to the one below; 1 is none.
        task: what the labels mean, a name in :data:`lightning_modules.tasks.TASKS`.
        label_smoothing, class_weights, focal, threshold, regression_loss: of the task; see its
            class. ``class_weights`` in a config may be ``balanced``: by the training samples.
        seed: of all that is random in training: dropout, drop path, mixup.
    """

    kind: str  # its name in CLASSIFIERS
    not_kept: tuple[str, ...] = ()  # arguments that are no hyper-parameters
    # What of input_config says that data are of its kind, as input_size of pictures; (): of any.
    reads: tuple[str, ...] = ()
    # Arguments that neither a resume nor a run that goes on from another may change, and what they
    # are of runs from before them.
    kept: Mapping[str, Any] = {}
    is_trained_here = True  # False: its metrics are not needed
    guidance: Guidance | None = None  # a loss on maps, beside that of the task
    distillation: Distillation | None = None  # a loss on what differs from the teacher
    teacher: Teacher | None = None  # the classifier that this one goes on from
    earlier_classes: Sequence[str] = ()  # of a trained one: those that it began with

    def __init__(
        self,
        class_names: list[str],
        input_config: dict[str, Any],
        *,
        freeze_backbone: bool = False,
        freeze: list[str] | None = None,
        lora: dict[str, Any] | None = None,
        compile: bool = False,
        lr: NotNegative = 1e-3,
        warmup: Annotated[float, Range(0, 1)] = 0.1,
        weight_decay: NotNegative = 0.05,
        layer_decay: Annotated[float, Range(above=0, most=1)] = 1.0,
        task: str = "multiclass",
        label_smoothing: Annotated[float, Range(0, 1)] = 0.0,
        class_weights: Literal["balanced"] | list[int | float] | None = None,
        focal: NotNegative = 0.0,
        threshold: float | list[int | float] = 0.5,
        regression_loss: Literal["mse", "l1"] = "mse",
        seed: Seed = 0,
    ) -> None:
        super().__init__()
        # Of all constructors on the way here; config.yaml has them for the logger.
        self.save_hyperparameters(ignore=self.not_kept, logger=False)
        self.lora = None if lora is None else Lora.of(lora)
        self.task = make_task(
            task,
            class_names,
            {
                "label_smoothing": label_smoothing,
                "class_weights": class_weights,
                "focal": focal,
                "threshold": threshold,
                "regression_loss": regression_loss,
            },
        )
        if not self.is_trained_here:
            return  # the metrics of a vocabulary would fill the memory
        metrics = self.figures()
        self.train_metrics = metrics.clone(prefix="train/")
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")
        self.val_counts, self.test_counts = self.task.counts(), self.task.counts()
        self.tested: Tensor | None = None  # the value of test_counts at the end of a test
        self.test_set: str | None = None

    # ---------------------------------------------------------------- what a subclass fills in

    def largest_batch(self) -> dict[str, Any]:
        """A one-sample batch of the largest input that the data can yield."""
        raise NotImplementedError

    def backbone_options(self) -> tuple[str, str]:
        """The options that the backbone is made of, and what of them the data take, in words."""
        raise NotImplementedError

    def without_sources(self) -> dict[str, Any]:
        """Arguments that build the backbone again without its initial weights.

        A checkpoint keeps them: who loads it needs neither the hub nor the files it came from.
        """
        raise NotImplementedError

    def figures(self) -> MetricCollection:
        """The figures of a split; they are updated by what is decided, and the true classes."""
        return self.task.metrics()

    def beyond_library(self) -> str | None:
        """Options by which the backbone is no model of its library, in words; None of none."""
        return None

    def check_complete(self) -> None:
        """Raises an InputError where an explanation needs more than inputs, which is not there.

        See :data:`.beside.BESIDE`.
        """

    # ------------------------------------------------------------------------------- inputs

    def check_inputs(self) -> None:
        """Whether the backbone takes what the data bring: one sample, once, in evaluation.

        Nothing is changed, and no random number drawn.

        Raises:
            InputError: it does not, or it gives other logits than one a class.
        """
        self.check_chosen()
        batch = self.largest_batch()
        inputs, (given, accepted) = self.inputs(batch), self.backbone_options()
        training = [module for module in self.modules() if module.training]
        self.eval()
        try:
            with (
                torch.no_grad(),
                eagerly(),
                as_input_error(f"{given}: the data do not fit", accepted),
            ):
                logits = self.of_backbone(inputs)
        finally:
            for module in training:
                module.training = True
        expected = (len(logits), len(self.hparams.class_names))
        if tuple(logits.shape) != expected:
            raise InputError(
                f"{given}: of a sample it makes {list(logits.shape[1:])} numbers; accepted: one a "
                f"class, {list(expected[1:])}"
            )

    # ---------------------------------------------------------------------------- training

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Logits [B, C]."""
        return self.of_backbone(self.inputs(batch))

    def of_backbone(self, inputs: Tensor | dict[str, Tensor]) -> Tensor:
        """The backbone's logits."""
        output = self.backbone(**inputs) if isinstance(inputs, dict) else self.backbone(inputs)
        return getattr(output, "logits", output)

    def on_train_epoch_start(self) -> None:
        # Dropout, drop path and mixup depend on (seed, epoch, rank) alone, so a resumed run draws
        # what the undisturbed one drew.
        key = [self.hparams.seed, self.current_epoch, self.global_rank]
        lightning.seed_everything(
            int(np.random.SeedSequence(key).generate_state(1)[0]), verbose=False
        )

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        logits, more = self.forward_training(batch)
        logits, labels = precise(logits), batch["label"]
        loss = self.task.loss(logits, labels, training=True)
        beside = (x for x in (self.guidance, self.distillation) if x is not None)
        added = [of_batch(self, batch, logits) for of_batch in beside]
        self.train_metrics.update(self.task.decided(logits), self.task.truth(labels))
        self.log_dict(self.train_metrics, on_epoch=True, on_step=False)
        self.log_training(loss)
        for name, other in more.items():
            self.log(f"train/{name}_loss", other, sync_dist=True)
            loss = loss + other
        return sum((x for x in added if x is not None), loss)

    def forward_training(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits [B, C] of a training batch, and losses beside that of the task, by name."""
        return self(batch), {}

    def log_training(self, loss: Tensor) -> None:
        self.log("train/loss", loss, sync_dist=True)
        # The top layer's: the others are fixed fractions of it.
        self.log("train/lr", max(group["lr"] for group in self.optimizers().param_groups))

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "val", self.val_metrics, self.val_counts)

    def begin_test(self, test_set: str | None) -> None:
        """Say which test set is tested next: one of the data's ``test_sets``, None: the test split.

        Figures of a further test set are named ``test/<test_set>/...``. Those of its classes are
        neither logged nor kept.
        """
        self.test_set = test_set
        self.test_metrics.prefix = "test/" if test_set is None else f"test/{test_set}/"

    def test_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        if self.test_set is None:
            self._evaluate(batch, "test", self.test_metrics, self.test_counts)
        else:
            self._evaluate(batch, f"test/{self.test_set}", self.test_metrics, None)

    def on_validation_epoch_end(self) -> None:
        self._log_incremental("val")
        self._log_by_class("val", self.val_counts)

    def on_test_epoch_end(self) -> None:
        self._log_incremental("test" if self.test_set is None else f"test/{self.test_set}")
        if self.test_set is None:
            self.tested = self._log_by_class("test", self.test_counts)

    def _evaluate(
        self,
        batch: Mapping[str, Tensor],
        split: str,
        metrics: MetricCollection,
        counts: Metric | None,
    ) -> None:
        logits, labels = precise(self(batch)), batch["label"]
        decided = self.task.decided(logits)
        metrics.update(decided, self.task.truth(labels))
        if counts is not None:
            counts.update(decided, self.task.truth(labels))
        if self.teacher is not None:
            before = self.teacher.on(self).logits(batch)
            self.incremental.update(logits.argmax(dim=-1), before.argmax(dim=-1), labels)
        loss = self.task.loss(logits, labels)
        self.log(f"{split}/loss", loss, batch_size=len(labels), sync_dist=True)
        self.log_dict(metrics, prog_bar=True)

    def _log_by_class(self, split: str, counts: Metric | None) -> Tensor | None:
        """Log the task's figure of every class that the split has; the counts by class."""
        if counts is None:
            return None
        values = counts.compute()
        for name, figure, samples in zip(
            self.hparams.class_names, self.task.by_class(values), values[:, -1], strict=True
        ):
            if samples > 0:
                self.log(f"{split}_class_{self.task.of_class}/{tag(name)}", figure)
        counts.reset()
        return values.cpu()

    def take_teacher(self, teacher: Teacher) -> None:
        """Go on from a classifier: what is forgotten of it is measured in every validation."""
        self.teacher = teacher
        self.incremental = ClassIncremental(len(teacher.class_names))

    def _log_incremental(self, split: str) -> None:
        """Log what is known of the teacher's classes and of the new ones."""
        if self.teacher is None:
            return
        for name, value in self.incremental.compute().items():
            self.log(f"{split}/{name}", value)
        self.incremental.reset()

    def on_fit_start(self) -> None:
        for beside in (self.guidance, self.distillation):
            if beside is not None:
                beside.check(self)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["kind"] = self.kind
        checkpoint["without_sources"] = {} if self.base else self.without_sources()
        if self.base is not None:
            checkpoint["base"] = self.base.kept()
        if self.teacher is not None:
            checkpoint["teacher"] = self.teacher.kept()
        checkpoint["hyper_parameters"] |= checkpoint["without_sources"]
