"""When the tracker reports in a project that is not ours, and where."""

import logging

import lightning
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_modules.callbacks import RelevanceTracker
from tests.helpers import strangers
from tests.helpers.processes import finish_two
from tests.helpers.strangers import Data, Pictures, Plain, fit, loader, made, watched_batch

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
