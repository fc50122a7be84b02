"""Values that Lightning accepts of its options, where its signatures do not say so."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal

from lightning_modules.utils.options import Count, Matching, Range, Words

ACCELERATORS = "auto gpu cpu cuda mps tpu".split()
DDP = ["ddp", "ddp_spawn", "ddp_fork", "ddp_notebook"]
STRATEGIES = [
    "auto",
    *(f"{ddp}{of_unused}" for ddp in DDP for of_unused in ("", "_find_unused_parameters_false")),
    *(f"{ddp}_find_unused_parameters_true" for ddp in DDP),
    *"deepspeed deepspeed_stage_1 deepspeed_stage_2 deepspeed_stage_2_offload".split(),
    *"deepspeed_stage_3 deepspeed_stage_3_offload deepspeed_stage_3_offload_nvme".split(),
    *"fsdp fsdp_cpu_offload single_device single_tpu single_xla xla xla_debug".split(),
]


class Share(Range):
    """A share of the batches; a float that is whole is a number of them."""

    def __contains__(self, value: float) -> bool:
        return super().__contains__(value) or (value > 1 and value % 1 == 0)


DEVICES = Matching(r"auto|-1|\d+( *, *\d+)* *,?", 'numbers, as "0,1", or "auto"')
DURATION = Matching(r"\d+:\d\d:\d\d:\d\d", '"DD:HH:MM:SS"')
UNITS = Literal["weeks", "days", "hours", "minutes", "seconds"]
TIME = Annotated[str, DURATION] | dict[UNITS, int]
BATCHES = Annotated[int, Range(0)] | Annotated[float, Share(0, 1)]
BETWEEN_VALIDATIONS = Count | Annotated[float, Share(above=0, most=1)] | TIME
MODE = Literal["min", "max"]


def values_of_lightning() -> dict[str, Any]:
    """Types, or ranges that are added to those of the signatures, by the key of the option."""
    accelerators = names(ACCELERATORS, "accelerators", "AcceleratorRegistry")
    strategies = names(STRATEGIES, "strategies", "StrategyRegistry")
    return {
        "trainer.accelerator": Literal[tuple(accelerators)],
        "trainer.strategy": Annotated[str, Words(*strategies)],
        "trainer.accumulate_grad_batches": Range(1),
        "trainer.check_val_every_n_epoch": Range(1),
        "trainer.gradient_clip_val": Range(0),
        "trainer.gradient_clip_algorithm": Annotated[str, Words("norm", "value")] | None,
        "trainer.limit_train_batches": BATCHES | None,
        "trainer.limit_val_batches": BATCHES | None,
        "trainer.limit_test_batches": BATCHES | None,
        "trainer.limit_predict_batches": BATCHES | None,
        "trainer.overfit_batches": BATCHES,
        "trainer.val_check_interval": BETWEEN_VALIDATIONS | None,
        "trainer.fast_dev_run": Range(0),
        "trainer.devices": Annotated[int, Range(-1)] | list[int] | Annotated[str, DEVICES],
        "trainer.max_epochs": Range(-1),
        "trainer.max_steps": Range(-1),
        "trainer.max_time": TIME | None,
        "trainer.num_nodes": Range(1),
        "trainer.num_sanity_val_steps": Range(-1),
        "trainer.reload_dataloaders_every_n_epochs": Range(0),
        "trainer.profiler": Annotated[str, Words("simple", "advanced", "pytorch", "xla")] | None,
        "callbacks.BatchSizeFinder.mode": Annotated[str, Words("power", "binsearch")],
        "callbacks.EarlyStopping.mode": MODE,
        "callbacks.EMAWeightAveraging.decay": Range(0, 1),
        "callbacks.LearningRateFinder.mode": Annotated[str, Words("linear", "exponential")],
        "callbacks.ModelCheckpoint.mode": MODE,
        "callbacks.ModelCheckpoint.save_top_k": Range(-1),
        "callbacks.ModelCheckpoint.every_n_train_steps": Range(0),
        "callbacks.ModelCheckpoint.every_n_epochs": Range(0),
        "callbacks.ModelPruning.verbose": Range(0, 2),
        "callbacks.Timer.duration": TIME | None,
        "callbacks.Timer.interval": Literal["step", "epoch"],
    }


def names(known: list[str], package: str, registry: str) -> list[str]:
    """Lightning's own names, and those that an imported module has added to its registry."""
    module = sys.modules.get(f"lightning.pytorch.{package}")
    return list(dict.fromkeys([*known, *getattr(module, registry, ())]))
