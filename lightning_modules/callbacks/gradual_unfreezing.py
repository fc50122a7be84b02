"""Blocks that are trained one after another, from the top."""

from __future__ import annotations

from typing import Annotated

from lightning import Callback, LightningModule, Trainer
from torch.nn.parallel import DistributedDataParallel

from lightning_modules.callbacks.registry import CALLBACKS
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.options import Checked, Count, Range


@CALLBACKS.register("GradualUnfreezing")
class GradualUnfreezing(Checked, Callback):
    """Trains what is above the blocks, then one more block at a time (Howard and Ruder 2018).

    What is trained is a function of the epoch alone, so that a resumed run needs no state of it.
    All parameters are in the optimizer from the beginning, in the groups and with the learning
    rates that they have without it; those that are frozen have no gradient, and are not decayed.
    Lightning's ``BaseFinetuning`` adds groups in the course of the training instead, which a
    schedule does not know. What the model's options freeze stays frozen.

    Args:
        first_epoch: in which the top block is trained first; what is above it is from epoch 0.
        every_n_epochs: from one block to the next; below the last block are the embeddings.
    """

    def __init__(
        self, first_epoch: Annotated[int, Range(0)] = 1, every_n_epochs: Count = 1
    ) -> None:
        self.first_epoch, self.every_n_epochs = first_epoch, every_n_epochs
        self.names: list[str] = []  # of the parameters that the options of the model leave to train

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        if getattr(module, "lora", None) is not None:
            raise InputError(
                "callbacks.GradualUnfreezing: the blocks of a model with adapters (model.lora) "
                "stay frozen; accepted: model.lora=null, or without the callback"
            )
        if not any(module.levels().values()):
            raise InputError(
                "callbacks.GradualUnfreezing: the model has no blocks that are known; accepted: "
                "a model with blocks, layers or stages, or one whose levels() says how far up each "
                "parameter is"
            )
        processes = trainer.strategy.model
        if isinstance(processes, DistributedDataParallel) and not processes.find_unused_parameters:
            raise InputError(
                "callbacks.GradualUnfreezing: several processes would wait for the gradients of "
                "what is frozen; accepted: trainer.strategy=ddp_find_unused_parameters_true"
            )
        self.names = [name for name, p in module.backbone.named_parameters() if p.requires_grad]

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._freeze(module, trainer.current_epoch)  # a resume within an epoch does not start it

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._freeze(module, trainer.current_epoch)

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """The module is afterwards as its options make it."""
        parameters = dict(module.backbone.named_parameters()) if self.names else {}
        for name in self.names:
            parameters[name].requires_grad_(True)
        self.names = []

    def _freeze(self, module: LightningModule, epoch: int) -> None:
        levels, parameters = module.levels(), dict(module.backbone.named_parameters())
        lowest = max(levels.values()) - self.unfrozen_blocks(epoch)
        for name in self.names:
            parameters[name].requires_grad_(levels[name] >= lowest)

    def unfrozen_blocks(self, epoch: int) -> int:
        """How many blocks are trained in an epoch; the embeddings count as one more."""
        return max(0, 1 + (epoch - self.first_epoch) // self.every_n_epochs)
