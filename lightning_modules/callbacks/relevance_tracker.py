"""Explains a fixed set of validation samples each epoch, and logs how the reasons change."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate

import relprop
from lightning_modules import render
from lightning_modules.metrics import ClassSpecificity, Segmentation
from relprop import Explanation


class RelevanceTracker(Callback):
    """Logs relevance maps of probe samples, in pictures and in numbers, each validation epoch.

    The probes are drawn from the validation set once and kept in the checkpoint. Tags:

    - ``explanations/probes``: input, map for the true class, map for the predicted class; also as
      ``run_dir/explanations/epoch=NNN.png``. ``explanations/pairs``: scenes with two objects, the
      map for the class of each.
    - ``relevance/drift``: 1 - cosine similarity to the last epoch's map, 0 (same reasons) to 1;
      ``relevance/concentration``: 1 - entropy / log(tokens), 0 (even) to 1 (one token).
    - ``relevance/pixel_accuracy``, ``mIoU``, ``mAP`` where the data has masks;
      ``relevance/class_specificity`` where it has pairs (0.5: class-blind).
    - ``relevance/seconds``: what all this cost.

    Training is untouched: no random numbers are drawn, no state is changed.

    Args:
        run_dir: where the pictures go.
        samples: number of probes (and of pairs).
        every_n_epochs: how often.
        method: name in ``relprop.METHODS``.
        start_layer: first block of the product methods.
        seed: of the choice of probes.
    """

    def __init__(
        self,
        run_dir: str,
        samples: int = 32,
        every_n_epochs: int = 1,
        method: str = "transformer_attribution",
        start_layer: int = 0,
        seed: int = 0,
    ) -> None:
        for name, value in (("samples", samples), ("every_n_epochs", every_n_epochs)):
            if value < 1:
                raise ValueError(f"tracker.{name} is {value}; accepted: 1 or more")
        relprop.check_method(method, {"start_layer": start_layer})
        self.folder = Path(run_dir) / "explanations"
        self.samples, self.every_n_epochs = samples, every_n_epochs
        self.method, self.start_layer, self.seed = method, start_layer, seed
        self.probes: list[int] = []
        self.last_maps: Tensor | None = None  # [samples, tokens], on the CPU

    def state_dict(self) -> dict:
        return {"probes": self.probes, "last_maps": self.last_maps}

    def load_state_dict(self, state: dict) -> None:
        self.probes, self.last_maps = state["probes"], state["last_maps"]

    # --------------------------------------------------------------------------------- hooks

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        dataset = trainer.datamodule.val_dataset
        if not self.probes:
            order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(self.seed))
            self.probes = order[: self.samples].tolist()
        # A model that cannot be explained, or a block that is not there, should be known now.
        first = self._batch(module, dataset, self.probes[:1])
        try:
            self._explain(module.record(first), first["label"])
        except ValueError as error:
            raise MisconfigurationException(f"tracker: {error}") from error

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.current_epoch % self.every_n_epochs:
            return
        if trainer.is_global_zero:
            started = time.perf_counter()
            scalars = self._track_probes(trainer, module)
            if trainer.datamodule.pairs_dataset is not None:
                scalars |= self._track_pairs(trainer, module)
            scalars["seconds"] = time.perf_counter() - started
            for name, value in scalars.items():
                module.log(f"relevance/{name}", float(value), rank_zero_only=True)
        trainer.strategy.barrier("relevance tracker")

    # ------------------------------------------------------------------------------- explaining

    def _track_probes(self, trainer: Trainer, module: LightningModule) -> dict[str, Tensor]:
        data = trainer.datamodule
        batch = self._batch(module, data.val_dataset, self.probes)
        trace = module.record(batch)
        predicted = trace.logits.argmax(dim=-1)
        of_true = self._explain(trace, batch["label"])
        of_predicted = self._explain(trace, predicted)

        maps = of_true.relevance.float().cpu()
        scalars = {"concentration": concentration(maps).mean()}
        if self.last_maps is not None:
            scalars["drift"] = (1 - F.cosine_similarity(maps, self.last_maps)).mean()
        self.last_maps = maps
        size = batch["image"].shape[-2:]
        if "mask" in batch:
            segmentation = Segmentation().to(maps.device)
            segmentation.update(of_true.heatmap(size).float().cpu(), batch["mask"].cpu())
            scalars |= segmentation.compute()

        picture = render.explanation_picture(
            self._images(batch, data),
            (of_true, of_predicted),
            ("true: {}", "predicted: {}"),
            data.class_names,
            f"Why each class? Validation samples, epoch {trainer.current_epoch}",
            batch["label"],
        )
        self._publish(trainer, "probes", picture, f"epoch={trainer.current_epoch:03d}.png")
        return scalars

    def _track_pairs(self, trainer: Trainer, module: LightningModule) -> dict[str, Tensor]:
        data = trainer.datamodule
        count = min(self.samples, len(data.pairs_dataset))
        batch = self._batch(module, data.pairs_dataset, range(count))
        trace = module.record(batch)
        specificity = ClassSpecificity().to(module.device)
        explanations = [self._explain(trace, labels) for labels in batch["labels"].T]
        for one, explanation in enumerate(explanations):
            heatmaps = explanation.heatmap(batch["image"].shape[-2:])
            specificity.update(heatmaps, batch["masks"][:, one], batch["masks"][:, 1 - one])

        picture = render.explanation_picture(
            self._images(batch, data),
            explanations,
            ("why {}?", "why {}?"),
            data.class_names,
            f"Two objects a scene: why each? Epoch {trainer.current_epoch}",
        )
        self._publish(trainer, "pairs", picture, f"pairs-epoch={trainer.current_epoch:03d}.png")
        return {"class_specificity": specificity.compute()}

    def _explain(self, trace: relprop.Trace, target: Tensor) -> Explanation:
        return relprop.explain_trace(trace, target, self.method, start_layer=self.start_layer)

    def _batch(self, module: LightningModule, dataset: Dataset, indices) -> dict[str, Tensor]:
        batch = default_collate([dataset[i] for i in indices])
        return module.transfer_batch_to_device(batch, module.device, 0)

    def _images(self, batch: dict[str, Tensor], data: LightningDataModule) -> Tensor:
        config = data.input_config
        return render.unnormalize(batch["image"], config["mean"], config["std"])

    def _publish(self, trainer: Trainer, tag: str, picture: np.ndarray, name: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f".{name}.partial"
        Image.fromarray(picture).save(partial, format="png")
        os.replace(partial, self.folder / name)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                step = (
                    trainer.global_step - 1
                )  # of the last batch, as Lightning logs an epoch's end
                logger.experiment.add_image(f"explanations/{tag}", picture, step, dataformats="HWC")


def concentration(maps: Tensor) -> Tensor:
    """1 - entropy / log(tokens) of each map's positive part: [B, tokens] -> [B], 0 to 1."""
    share = F.normalize(maps.clamp(min=0), p=1, dim=-1)
    entropy = torch.special.entr(share).sum(dim=-1)
    return 1 - entropy / np.log(maps.shape[-1])
