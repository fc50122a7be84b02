"""When the tracker reports in a project that is not ours, and where."""

import logging
import warnings

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import relprop
from lightning_modules.callbacks import RelevanceTracker
from tests.helpers import strangers
from tests.helpers.processes import finish_two
from tests.helpers.strangers import (
    Data,
    Pictures,
    Plain,
    TwoModels,
    fit,
    loader,
    made,
    timm_vit,
    watched_batch,
)

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class WithoutValidation(Pictures):
    validation_step = Plain.__mro__[1].validation_step


def test_without_validation_it_reports_at_the_end_of_the_epoch(tmp_path):
    lightning.seed_everything(0, verbose=False)
    module, tracker = WithoutValidation(), RelevanceTracker(watched_batch(), run_dir=tmp_path)
    trainer = strangers.trainer(tmp_path, tracker, max_epochs=3)
    trainer.fit(module, loader("pictures"))
    assert len(list((tmp_path / "explanations").iterdir())) == 3
    assert 0 < trainer.callback_metrics["relevance/drift"] < 1


def test_the_sanity_check_and_a_validation_alone_report_nothing(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(RelevanceTracker, "_publish", lambda *about: shown.append(about))
    module, tracker = made(), RelevanceTracker(watched_batch())
    trainer = fit(tmp_path, module, tracker, max_epochs=1, num_sanity_val_steps=2)
    assert len(shown) == 1
    trainer.validate(module, datamodule=Data("pictures"), verbose=False)
    assert len(shown) == 1


def test_a_validation_set_that_is_made_late_is_watched(tmp_path):
    """No sanity check, and validation every second epoch."""
    tracker = RelevanceTracker(samples=5)
    late = {"num_sanity_val_steps": 0, "check_val_every_n_epoch": 2}
    fit(tmp_path, made(), tracker, **late)
    assert len(tracker.last_maps) == 5


def test_without_a_folder_pictures_and_texts_go_to_the_logger(tmp_path):
    logger = TensorBoardLogger(tmp_path / "logs", name="", version="")
    fit(tmp_path, made("texts"), RelevanceTracker(), logger=logger)
    events = EventAccumulator(str(tmp_path / "logs"), {"images": 0, "tensors": 0}).Reload()
    assert [x.step for x in events.Images("explanations/samples")] == [2, 5]
    assert "explanations/samples/text_summary" in events.Tags()["tensors"]
    assert len(events.Scalars("relevance/concentration")) == 2
    assert not (tmp_path / "explanations").exists()


def test_drift_goes_on_after_a_resume_of_the_same_samples(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path / "kept", save_last=True, save_on_train_epoch_end=True)
    batch, options = watched_batch(), {"enable_checkpointing": True}
    fit(tmp_path, made(), RelevanceTracker(batch), checkpoint, max_epochs=1, **options)
    for source, goes_on in ((batch, True), (watched_batch("pictures", 4)[0], False)):
        resumed = fit(
            tmp_path, made(), RelevanceTracker(source), ckpt_path=tmp_path / "kept" / "last.ckpt"
        )
        assert ("relevance/drift" in resumed.callback_metrics) == goes_on


def reported(tracker) -> list[int]:
    """The epochs of reports that it will make."""
    epochs: list[int] = []
    tracker._publish = lambda trainer, report: epochs.append(trainer.current_epoch)
    return epochs


@pytest.mark.parametrize(
    ("validated", "every", "epochs"), [(2, 2, [1, 3, 5]), (2, 3, [1, 3]), (3, 1, [2, 5])]
)
def test_a_report_comes_with_the_next_validation(tmp_path, validated, every, epochs):
    tracker = RelevanceTracker(watched_batch(), every_n_epochs=every)
    found = reported(tracker)
    fit(tmp_path, made(), tracker, max_epochs=6, check_val_every_n_epoch=validated)
    assert found == epochs


def test_reports_come_in_the_same_epochs_after_a_resume(tmp_path):
    checkpoint = ModelCheckpoint(
        tmp_path, "{epoch}", save_top_k=-1, every_n_epochs=1, save_on_train_epoch_end=True
    )
    options, batch = {"check_val_every_n_epoch": 2, "max_epochs": 6}, watched_batch()
    whole = RelevanceTracker(batch, every_n_epochs=3)
    fit(tmp_path, made(), whole, checkpoint, enable_checkpointing=True, **options)
    for epoch in range(5):
        tracker = RelevanceTracker(batch, every_n_epochs=3)
        found = reported(tracker)
        fit(tmp_path, made(), tracker, ckpt_path=tmp_path / f"epoch={epoch}.ckpt", **options)
        assert found == [x for x in (1, 3) if x > epoch]


@pytest.mark.parametrize(("next_epoch", "epochs"), [(2, [3, 6, 9]), (3, [3, 6, 9]), (4, [6, 9])])
def test_a_checkpoint_that_does_not_know_its_last_report_had_one_in_each_multiple(
    next_epoch, epochs
):
    tracker = RelevanceTracker(every_n_epochs=3)
    state = tracker.state_dict()
    del state["reported"], state["scored"], state["model"]
    tracker.load_state_dict(state)
    assert [x for x in range(next_epoch, 10) if tracker.reports.comes(x)] == epochs


def test_every_validation_of_an_epoch_is_reported(tmp_path):
    tracker = RelevanceTracker(watched_batch(), every_n_epochs=2)
    found = reported(tracker)
    fit(tmp_path, made(), tracker, max_epochs=3, val_check_interval=1)
    assert found == [0, 0, 0, 2, 2, 2]


# ---------------------------------------------------------------------- beside other callbacks


def test_two_trackers_of_two_models_are_told_apart(tmp_path):
    lightning.seed_everything(0, verbose=False)
    names, module, batch = ("model", "teacher.of_it"), TwoModels(), watched_batch()
    checkpoint = ModelCheckpoint(tmp_path / "kept", save_last=True, save_on_train_epoch_end=True)

    def trained(**options):
        trackers = [RelevanceTracker(batch, run_dir=tmp_path, model=name) for name in names]
        options["enable_checkpointing"] = True
        return fit(tmp_path, module, *trackers, checkpoint, **options), trackers

    trainer, trackers = trained(max_epochs=1)
    for name in names:
        assert f"relevance/{name}/concentration" in trainer.callback_metrics
        assert (tmp_path / "explanations" / f"{name}-epoch=000.png").is_file()
    trainer, resumed = trained(max_epochs=2, ckpt_path=tmp_path / "kept" / "last.ckpt")
    drifts = [trainer.callback_metrics[f"relevance/{name}/drift"] for name in names]
    assert 0 < drifts[0] < 1 and drifts[1] == 0  # the teacher learns nothing
    assert [x.state_key for x in resumed] == [f"RelevanceTracker{{'model': {x!r}}}" for x in names]


def test_a_tracker_alone_reports_under_the_plain_names(tmp_path):
    tracker = RelevanceTracker(watched_batch(), run_dir=tmp_path, model="model")
    trainer = fit(tmp_path, made(), tracker, max_epochs=1)
    assert "relevance/concentration" in trainer.callback_metrics
    assert (tmp_path / "explanations" / "epoch=000.png").is_file()


@pytest.mark.parametrize(("model", "goes_on"), [("model", True), ("forward", False)])
def test_a_state_from_before_keys_had_models_is_found(tmp_path, model, goes_on):
    """It is that of the same model, unless it says of which it is."""
    module, batch = Forward(timm_vit(proj_drop_rate=0.0)), watched_batch()
    checkpoint = ModelCheckpoint(tmp_path / "kept", save_last=True, save_on_train_epoch_end=True)
    options = {"enable_checkpointing": True}
    tracker = RelevanceTracker(batch, model="model")
    fit(tmp_path, module, tracker, checkpoint, max_epochs=1, **options)
    path = tmp_path / "kept" / "last.ckpt"
    kept = torch.load(path, weights_only=True)
    kept["callbacks"]["RelevanceTracker"] = kept["callbacks"].pop(tracker.state_key)
    torch.save(kept, path)
    resumed = fit(tmp_path, module, RelevanceTracker(batch, model=model), ckpt_path=path)
    assert ("relevance/drift" in resumed.callback_metrics) == goes_on


class Forward(Pictures):
    def forward(self, x):
        return self.model(x)


@pytest.mark.parametrize("first", [True, False])
def test_averaged_weights_are_explained_in_whatever_order(tmp_path, first):
    (x, y), module = watched_batch(), made()
    callbacks = [RelevanceTracker((x, y)), EMAWeightAveraging(decay=0.5)]
    fit(tmp_path, module, *callbacks[:: 1 if first else -1])
    averaged = module.eval().model  # as training leaves it
    expected = relprop.explain(averaged, x, y).relevance
    torch.testing.assert_close(callbacks[0].last_maps, expected)


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ({}, True),
        ({"logger": CSVLogger("logs")}, True),
        ({"logger": [CSVLogger("logs"), TensorBoardLogger("logs")]}, False),
        ({"fast_dev_run": True}, False),
    ],
)
def test_pictures_that_go_nowhere_are_warned_of_once(tmp_path, monkeypatch, options, warned):
    monkeypatch.chdir(tmp_path)
    for run_dir in (None, tmp_path):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            tracker = RelevanceTracker(watched_batch(), run_dir=run_dir)
            fit(tmp_path, made(), tracker, max_epochs=2, **options)
        found = [x for x in caught if "no logger shows its pictures" in str(x.message)]
        assert len(found) == (warned and run_dir is None)


# ------------------------------------------------------------------------------- two processes

TWO = """
import os, sys
import lightning
from lightning import Callback
from lightning_modules.callbacks import RelevanceTracker
from lightning_modules.models.adopted import Adopted
from tests.helpers import strangers

def record(self, batch):
    with open(f"{sys.argv[1]}/explained-{os.environ.get('LOCAL_RANK', '0')}", "a") as file:
        file.write(f"{len(batch['inputs'])}\\n")
    return plain(self, batch)

plain, Adopted.record = Adopted.record, record
lightning.seed_everything(0, verbose=False)
module, data = strangers.Pictures(), strangers.Data("pictures")
tracker = RelevanceTracker(run_dir=sys.argv[1], samples=5)
trainer = strangers.trainer(sys.argv[1], tracker, devices=2, strategy="ddp")
trainer.fit(module, datamodule=data)
assert trainer.world_size == 2
"""


def test_of_two_processes_the_first_explains_and_the_other_waits(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO)
    for ended in finish_two(script, str(tmp_path)):
        assert ended.returncode == 0, ended.stderr[-2000:]
    assert (tmp_path / "explained-0").read_text().split() == ["1", "5", "5"]
    assert (tmp_path / "explained-1").read_text().split() == ["1"]  # whether it can be, at first
    assert len(list((tmp_path / "explanations").glob("*.png"))) == 2
