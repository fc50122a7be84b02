"""Gradual unfreezing: what is trained when, and runs that are resumed across it."""

import lightning
import pytest
import torch

import train
from lightning_modules.callbacks import CALLBACKS
from lightning_modules.utils.errors import InputError
from tests.helpers.runs import assert_identical, load, run
from tests.models.test_classifier import batches, classifier

SMALL = ("data.train_size=24", "data.val_size=8", "data.test_size=8", "data.batch_size=8")
SMALL += ("tracker=null", "model.layer_decay=0.5", "callbacks={GradualUnfreezing: {}}")
GradualUnfreezing = CALLBACKS["GradualUnfreezing"]


class Seen(lightning.Callback):
    """What each epoch trains, and has changed."""

    def __init__(self):
        self.trained, self.changed = [], []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == 0:
            self.trained.append({n for n, p in module.named_parameters() if p.requires_grad})
            self.before = {n: p.detach().clone() for n, p in module.named_parameters()}

    def on_train_epoch_end(self, trainer, module):
        parameters = module.named_parameters()
        self.changed.append({n for n, p in parameters if not torch.equal(p, self.before[n])})


def fit(module, epochs: int, *more: lightning.Callback, options=None, **trainer) -> Seen:
    """``options``: of the callback."""
    seen = Seen()
    lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        callbacks=[GradualUnfreezing(**(options or {})), seen, *more],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **trainer,
    ).fit(module, batches(2))
    return seen


def at_or_above(module, level: int) -> set[str]:
    return {f"backbone.{name}" for name, of in module.levels().items() if of >= level}


def test_one_more_block_is_trained_from_epoch_to_epoch_and_the_embeddings_last():
    module = classifier(weight_decay=0.5)
    seen = fit(module, 5)
    assert seen.trained == [at_or_above(module, level) for level in (4, 3, 2, 1, 0)]
    for trained, changed in zip(seen.trained[:4], seen.changed[:4], strict=True):
        assert changed and changed <= trained
    assert "backbone.blocks.0.mlp.fc1.weight" in seen.changed[3] - seen.changed[2]


def test_the_first_epoch_and_the_epochs_between_are_options():
    module = classifier()
    seen = fit(module, 5, options={"first_epoch": 2, "every_n_epochs": 2})
    assert seen.trained == [at_or_above(module, level) for level in (4, 4, 3, 3, 2)]
    assert all(p.requires_grad for p in module.parameters())  # when training is over
    assert fit(classifier(), 1, options={"first_epoch": 0}).trained == [at_or_above(module, 3)]


def test_what_the_options_freeze_stays_frozen():
    module = classifier(freeze=["backbone.blocks.2.*", "backbone.norm.*"])
    seen = fit(module, 3)
    frozen = ("backbone.blocks.2.", "backbone.norm.")
    expected = [at_or_above(module, level) for level in (4, 3, 2)]
    assert seen.trained == [{n for n in x if not n.startswith(frozen)} for x in expected]
    assert not module.backbone.norm.weight.requires_grad


def test_groups_and_rates_are_those_of_a_run_without_it():
    module = classifier(layer_decay=0.5, lr=1.0)
    groups = [(len(g["params"]), g["lr"]) for g in module.parameter_groups()]
    seen = []

    class Rates(lightning.Callback):
        def on_train_epoch_start(self, trainer, module):
            of = trainer.optimizers[0].param_groups
            seen.append([(len(g["params"]), g["initial_lr"]) for g in of])

    fit(module, 2, Rates())
    assert seen == [groups, groups]


def test_adapters_and_models_without_blocks_are_refused():
    with pytest.raises(InputError, match="GradualUnfreezing: the blocks of a model with adapters"):
        fit(classifier(lora={}), 1)
    module = classifier()
    module.levels = lambda: {name: 0 for name, _ in module.backbone.named_parameters()}
    with pytest.raises(InputError, match="GradualUnfreezing: the model has no blocks that are"):
        fit(module, 1)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Three steps an epoch: the head, the upper of two blocks, the lower one."""
    return run(tmp_path_factory.mktemp("undisturbed") / "run", *SMALL)


@pytest.mark.parametrize("steps", [3, 4, 6])
def test_a_run_stopped_before_or_within_an_epoch_that_unfreezes_ends_as_one_that_was_not(
    steps, undisturbed, tmp_path
):
    stopped = run(tmp_path / "run", *SMALL, f"trainer.max_steps={steps}")
    assert load(stopped)["global_step"] == steps
    train.main(["--resume", str(stopped), "trainer.max_steps=-1"])
    ours, theirs = load(stopped), load(undisturbed)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert_identical(ours[part], theirs[part], part)


def test_several_processes_need_a_strategy_that_lets_parameters_rest():
    """Of one process here; tests/soak has two."""
    with pytest.raises(InputError, match="strategy=ddp_find_unused_parameters_true"):
        fit(classifier(), 1, strategy="ddp", devices=1)
    plain, wrapped = classifier(), classifier()
    fit(plain, 2)
    same_order = {"devices": 1, "use_distributed_sampler": False}
    fit(wrapped, 2, strategy="ddp_find_unused_parameters_true", **same_order)
    assert_identical(plain.state_dict(), wrapped.state_dict())
