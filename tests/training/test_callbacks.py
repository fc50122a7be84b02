"""Callbacks by name: Lightning's own, and those that average weights."""

import json
import re
import shutil
from pathlib import Path

import lightning.pytorch.callbacks
import pytest
import torch
from lightning import Callback, Trainer

import train
from configs.schema import ConfigError, load_config
from configs.sections import make_schema
from lightning_modules.callbacks import CALLBACKS, make_callbacks
from lightning_modules.data import DATAMODULES
from lightning_modules.models.checkpoints import load_classifier
from lightning_modules.utils.errors import InputError
from tests.helpers.runs import assert_identical, assert_same_end, load, rows, run

pytestmark = pytest.mark.slow

AVERAGED = ("callbacks={EMAWeightAveraging: {decay: 0.5}, LearningRateMonitor: {}}",)


def weights(checkpoint: dict, name: str = "state_dict") -> dict:
    return {k: v for k, v in checkpoint[name].items() if k.startswith("backbone.")}


def differ(a: dict, b: dict) -> bool:
    return any(not torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def averaged(tmp_path_factory) -> Path:
    return run(tmp_path_factory.mktemp("averaged"), *AVERAGED)


def test_averaged_weights_are_kept_beside_those_that_are_trained(averaged, trained):
    checkpoint = load(averaged)
    assert differ(weights(checkpoint), weights(checkpoint, "current_model_state"))
    assert_identical(weights(checkpoint, "current_model_state"), weights(load(trained())))


def test_averaged_weights_are_explained_while_training(averaged):
    """What the tracker has last seen is what the last checkpoint's averaged weights give."""
    checkpoint, module = load(averaged), load_classifier(averaged / "checkpoints" / "last.ckpt")
    assert_identical(
        weights(checkpoint), {f"backbone.{k}": v for k, v in module.backbone.state_dict().items()}
    )
    (state,) = (x for name, x in checkpoint["callbacks"].items() if "RelevanceTracker" in name)
    data = DATAMODULES["digits"](
        train_size=96, val_size=40, test_size=40, pairs_size=10, batch_size=32
    )
    samples = [data.val_dataset[i] for i in state["samples"]]
    batch = torch.utils.data.default_collate(samples)
    (found,) = module.explain_sources(module.record(batch), batch, [batch["label"]])
    (found,) = found.values()
    torch.testing.assert_close(found.maps, state["last_maps"], rtol=1e-4, atol=1e-6)


def test_averaged_weights_are_tested(averaged, tmp_path, monkeypatch):
    """metrics.json is of best.ckpt's averaged weights, and not of those that were trained."""
    expected = json.loads((averaged / "metrics.json").read_text())
    module = load_classifier(averaged / "checkpoints" / "best.ckpt")
    data = DATAMODULES["digits"](
        train_size=96, val_size=40, test_size=40, pairs_size=10, batch_size=32
    )
    logger = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    (found,) = Trainer(accelerator="cpu", **logger).test(module, data, verbose=False)
    assert found["test/loss"] == pytest.approx(expected["test/loss"], rel=1e-5)


@pytest.mark.parametrize("step", [4, 6])
def test_a_resumed_run_averages_to_the_same_end(averaged, tmp_path, step):
    run_dir = run(tmp_path / "run", *AVERAGED, f"trainer.max_steps={step}")
    train.main(["--resume", str(run_dir), "trainer.max_steps=-1"])
    assert_same_end(run_dir, averaged)
    ends = (load(run_dir), load(averaged))
    assert_identical(*(weights(x, "current_model_state") for x in ends))


def test_the_order_of_names_changes_nothing(averaged, tmp_path):
    other = "callbacks={LearningRateMonitor: {}, EMAWeightAveraging: {decay: 0.5}}"
    assert rows(run(tmp_path, other)) == rows(averaged)


def test_a_checkpoint_within_validation_has_nothing_swapped(tmp_path, monkeypatch):
    """One that is written on the way out of a validation that is interrupted."""

    class Interrupt(Callback):
        def on_validation_batch_end(self, trainer, *arguments):
            if trainer.current_epoch == 1 and not trainer.sanity_checking:
                raise KeyboardInterrupt

    monkeypatch.setitem(CALLBACKS, "Interrupt", Interrupt)
    ended = run(tmp_path / "ended", *AVERAGED, "trainer.max_steps=6")
    written = tmp_path / "written"
    names = "EMAWeightAveraging: {decay: 0.5}, Interrupt: {}, OnExceptionCheckpoint: "
    callbacks = f"{{{names}{{dirpath: {written}}}}}"
    with pytest.raises(SystemExit):
        run(tmp_path / "run", f"callbacks={callbacks}")
    (path,) = written.glob("*.ckpt")
    found, expected = torch.load(path, weights_only=False), load(ended)
    for name in ("state_dict", "current_model_state"):
        assert_identical(weights(found, name), weights(expected, name))


def test_every_callback_of_lightning_has_a_schema():
    bases = {"BaseFinetuning", "BasePredictionWriter", "Callback", "Checkpoint", "ProgressBar"}
    of_functions = {"LambdaCallback", "ThroughputMonitor"}
    assert set(lightning.pytorch.callbacks.__all__) - bases - of_functions <= set(CALLBACKS)
    for name, callback in CALLBACKS.items():
        make_schema(f"callbacks.{name}", callback)


def test_options_that_a_callback_refuses_are_told(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "run", "callbacks={EarlyStopping: {monitor: val/loss, mode: up}}")
    assert stop.value.code == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("train.py: callbacks.EarlyStopping.mode: ")
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------ ours

BESIDE = ("callbacks={RelevanceTracker: {method: attnlrp, samples: 4}, Patience: {epochs: 5}}",)


@pytest.fixture(scope="module")
def beside(tmp_path_factory) -> Path:
    """Two trackers in one run."""
    return run(tmp_path_factory.mktemp("beside"), *BESIDE)


def test_a_tracker_among_the_callbacks_watches_another_method_beside_ours(beside, trained):
    found, plain = rows(beside), rows(trained())
    assert found[-1]["relevance/attnlrp/drift"] and not found[0]["relevance/attnlrp/drift"]
    assert [{name: row[name] for name in plain[0]} for row in found] == plain
    names = {path.name for path in (beside / "explanations").iterdir()}
    assert {"epoch=001.png", "attnlrp-epoch=001.png"} <= names
    states = load(beside)["callbacks"]
    named = {key: len(x["samples"]) for key, x in states.items() if "RelevanceTracker" in key}
    assert named == {"RelevanceTracker": 6, "RelevanceTracker{'method': 'attnlrp'}": 4}


def test_two_trackers_are_resumed_to_the_same_end(beside, tmp_path):
    run_dir = run(tmp_path / "run", *BESIDE, "trainer.max_steps=4")
    train.main(["--resume", str(run_dir), "trainer.max_steps=-1"])
    assert_same_end(run_dir, beside)


def test_a_tracker_alone_among_the_callbacks_is_that_of_the_section(beside, tmp_path):
    """Its names, its seed and its key are the same; a second one that is new takes no state."""
    options = ("trainer.max_epochs=1", "callbacks={RelevanceTracker: {samples: 6}}", "tracker=null")
    run_dir = run(tmp_path / "run", *options)
    expected = load(beside)["callbacks"]["RelevanceTracker"]["samples"]
    assert load(run_dir)["callbacks"]["RelevanceTracker"]["samples"] == expected
    more = "callbacks={RelevanceTracker: {samples: 4, method: attnlrp}}"
    again = ["trainer.max_epochs=2", "tracker={samples: 6}", more]
    train.main(["--resume", str(run_dir), *again])
    (_, row) = rows(run_dir)
    assert row["relevance/drift"] and "relevance/attnlrp/drift" not in row
    assert row["relevance/attnlrp/concentration"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["callbacks.RelevanceTracker.samples=4"], "callbacks.RelevanceTracker.method is 'transf"),
        (["patience=3", "callbacks.Patience.epochs=3"], "patience and callbacks.Patience are the"),
        (["callbacks.Patience.epochs=0"], "callbacks.Patience.epochs: 0 is not accepted; accepted"),
        (["callbacks={Patience: {}}"], "callbacks.Patience.epochs: missing"),
        (["callbacks.RelevanceTracker.run_dir=a"], "callbacks.RelevanceTracker.run_dir: train.py"),
        (["callbacks.RelevanceTracker.source=a"], "callbacks.RelevanceTracker.source: unknown key"),
        (["callbacks.RelevanceTracker.method=a"], "callbacks.RelevanceTracker.method is 'a'"),
        (
            ["callbacks.RichProgressBar.theme=dark"],
            'callbacks.RichProgressBar.theme: "dark" is not accepted; accepted: its default',
        ),
    ],
)
def test_what_our_callbacks_do_not_accept_is_told(given, message):
    with pytest.raises(ConfigError) as error:
        load_config("configs/vit_digits.yaml", given)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("callbacks.Patience.epochs=1", "callbacks.Patience.epochs=1"),
        (
            "callbacks={EarlyStopping: {monitor: train/loss, mode: max, patience: 1}}",
            "callbacks.EarlyStopping.patience=1",
        ),
    ],
)
def test_the_option_that_stops_early_is_named(given, reason, tmp_path, capsys):
    worse = ("model.lr=0", "tracker=null", "trainer.max_epochs=5")
    run(tmp_path, given, *worse)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"{reason} ended the run") and last.endswith(f"{reason[:-2]}=MORE")


def test_a_callback_that_takes_the_folder_and_the_seed_has_the_runs(monkeypatch):
    class Mine(Callback):
        def __init__(self, run_dir: str, seed: int = 7, step: int = 1) -> None:
            self.given = run_dir, seed, step

    monkeypatch.setitem(CALLBACKS, "Mine", Mine)
    config = load_config("configs/vit_digits.yaml", ["callbacks={Mine: {step: 2}}", "seed=3"])
    (made,) = make_callbacks(config.callbacks, run_dir=config.run_dir, seed=config.seed)
    assert made.given == ("runs/vit_digits", 3, 2)
    (made,) = make_callbacks({"Mine": {"seed": 5}}, run_dir="a", seed=3)
    assert made.given == ("a", 5, 1)


def test_a_progress_bar_takes_the_place_of_ours(tmp_path):
    run_dir = run(
        tmp_path, "callbacks={TQDMProgressBar: {refresh_rate: 0}}", "trainer.max_epochs=1"
    )
    assert rows(run_dir)


def test_a_callback_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "own_callback.py").write_text(
        "from lightning import Callback\n"
        "from lightning_modules.callbacks import CALLBACKS\n"
        "@CALLBACKS.register('Noted')\n"
        "class Noted(Callback):\n"
        "    def __init__(self, path: str, words: str = 'seen'):\n"
        "        self.path, self.words = path, words\n"
        "    def on_train_end(self, trainer, module):\n"
        "        open(self.path, 'w').write(self.words)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    root = Path(train.__file__).parent
    shutil.copytree(root / "configs", tmp_path / "configs", ignore=shutil.ignore_patterns("*.py"))
    given = f"callbacks={{Noted: {{path: {tmp_path / 'noted'}}}}}"
    try:
        run(
            tmp_path / "run", "--import=own_callback", given, "trainer.max_epochs=1", "tracker=null"
        )
    finally:
        CALLBACKS.pop("Noted", None)
    assert (tmp_path / "noted").read_text() == "seen"


def test_the_averaging_comes_last():
    names = ["WeightAveraging", "LearningRateMonitor", "DeviceStatsMonitor"]
    made = make_callbacks(dict.fromkeys(names))
    assert [type(x).__name__ for x in made] == [*names[1:], names[0]]


def test_two_that_average_are_refused():
    both = {"EMAWeightAveraging": {"decay": 0.5}, "LearningRateMonitor": {}, "WeightAveraging": {}}
    with pytest.raises(InputError, match="EMAWeightAveraging and WeightAveraging .*: one of them"):
        make_callbacks(both)


@pytest.mark.parametrize(
    "given, named",
    [
        ("EarlyStopping: {monitor: val/los}", "EarlyStopping.monitor: .*following: `train/loss`"),
        ("BackboneFinetuning: {}", "callbacks: no parameter"),
        ("ModelCheckpoint: {}", "a ModelCheckpoint, a monitor"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(given, named, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(tmp_path, "tracker=null", f"callbacks={{{given}}}")
    assert re.search(named, capsys.readouterr().err.splitlines()[-1])
