"""An option that cannot be is told in one line, with exit code 2, before anything is written."""

import shutil
from pathlib import Path

import pytest
import torch

import explain
import train
from lightning_modules.models.checkpoints import load_classifier
from lightning_modules.utils.errors import InputError
from tests.helpers.runs import assert_identical, load, rows, run
from tests.helpers.samples import random_states


def told(capsys, call, *arguments, **options) -> str:
    """The one line of a call that fails."""
    with pytest.raises(SystemExit) as exit_:
        call(*arguments, **options)
    assert exit_.value.code == 2
    (*_, message) = capsys.readouterr().err.strip().splitlines()
    assert message.startswith(("train.py: ", "explain.py: ")), message
    return message


def assert_says(message: str, named: str) -> None:
    for words in named.split(" | "):
        assert words in message, message


# ------------------------------------------------------------------------------------ new runs

DIGITS = [  # options, and what the line has to say
    ("seed=-1", "seed: -1 | int from 0 to"),
    ("data.seed=-1", "data.seed: -1 | int from 0 to"),
    ("model.seed=-1", "model.seed: -1 | int from 0 to"),
    ("tracker.seed=-1", "tracker.seed: -1 | int from 0 to"),
    # What is optimised.
    ("model.lr=-1", "model.lr: -1 is not accepted | at least 0"),
    ("model.lr=.nan", "model.lr: NaN is not accepted | at least 0"),
    ("model.lr=.inf", "model.lr: Infinity is not accepted | finite"),
    ("model.label_smoothing=2", "model.label_smoothing: 2 is not accepted | from 0 to 1"),
    ("model.label_smoothing=-0.1", "model.label_smoothing: -0.1 is not accepted | from 0 to 1"),
    ("model.mixup=-1", "model.mixup: -1 is not accepted | at least 0"),
    ("model.cutmix=.inf", "model.cutmix: Infinity is not accepted | finite"),
    ("model.warmup=2", "model.warmup: 2 is not accepted | from 0 to 1"),
    ("model.warmup=-1", "model.warmup: -1 is not accepted | from 0 to 1"),
    ("model.layer_decay=0", "model.layer_decay: 0 is not accepted | above 0"),
    ("model.layer_decay=-1", "model.layer_decay: -1 is not accepted | above 0"),
    ("model.weight_decay=-1", "model.weight_decay: -1 is not accepted | at least 0"),
    # The model: of timm's making, and as the data want it.
    ("model.name=resnet18", "model.name resnet18 | accepted: a model of timm"),
    ("model.pretrained=true", "model.pretrained=true | vit_tiny_patch16_224 | accepted"),
    ("model.model_options.num_heads=5", "model.model_options | 'num_heads': 5 | divisible"),
    ("model.model_options.class_token=false", "'class_token': False | Token pooling needs"),
    ("model.model_options.embed_dim=-4", "model.model_options | 'embed_dim': -4 | negative"),
    ("model.model_options.num_classes=3", "model.model_options | 'num_classes': 3 | multiple"),
    ("model.model_options.img_size=48", "'img_size': 48 | (32) doesn't match | 3 x 32 x 32"),
    ("model.model_options.patch_size=64", "model.model_options | 'patch_size': 64 | 3 x 32 x 32"),
    ("model.model_options.in_chans=1", "model.model_options | 'in_chans': 1 | 3 x 32 x 32"),
    # Lightning's.
    ("trainer.max_epochs=-1", "trainer.max_epochs | accepted"),
    ("trainer.max_epochs=-1 trainer.max_time=00:00:01:00", "trainer.max_epochs | accepted"),
    ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val: -1 is not accepted | at least 0"),
    (
        "trainer.check_val_every_n_epoch=0",
        "check_val_every_n_epoch: 0 is not accepted | at least 1",
    ),
    (
        "trainer.accumulate_grad_batches=0",
        "accumulate_grad_batches: 0 is not accepted | at least 1",
    ),
    ("trainer.val_check_interval=0", "trainer.val_check_interval: 0 is not accepted | above 0"),
    ("trainer.val_check_interval=1000", "trainer.val_check_interval | 1000 | training batches (3)"),
    ("trainer.precision=transformer-engine", "trainer: | transformer_engine"),
    ("trainer.limit_val_batches=0 patience=1", "patience | trainer.limit_val_batches"),
    # The tracker's.
    ("tracker.protocols=[rationales]", "train.py: tracker.protocols: rationales | accepted: texts"),
]
REVIEWS = [
    ("model.config.hidden_size=0", "model.config | 'hidden_size': 0 | accepted: model_type bert"),
    ("model.config.hidden_size=x", "model.config | 'hidden_size' | expected int"),
    ("model.config.hidden_act=foo", "model.config | 'hidden_act': 'foo' | KeyError 'foo'"),
    ("model.config.pad_token_id=1000", "model.config | 'pad_token_id': 1000 | accepted"),
    ("model.config.vocab_size=10", "model.config | 'vocab_size': 10 | vocab_size of at least"),
    ("model.config.max_position_embeddings=8", "model.config | data.max_length=64 tokens"),
    ("data.max_length=65", "model.config | data.max_length=65 tokens"),
    ("model.config.num_labels=7", "model.config | 'num_labels': 7 | one a class, [2]"),
    ("model.config.model_type=t5", "model.config | 't5' | accepted"),
    ("model.name=package:absent model.config=null", "model.name | package:absent | accepted"),
    ("model.attention=fast", 'model.attention: "fast" | sdpa or eager'),
    ("tracker.protocols=[segmentation]", "tracker.protocols: segmentation | accepted: images"),
]
CASES = [("digits", *case) for case in DIGITS] + [("reviews", *case) for case in REVIEWS]


@pytest.mark.parametrize(("experiment", "options", "named"), CASES)
def test_an_option_that_cannot_be_is_told(
    tmp_path, capsys, monkeypatch, experiment, options, named
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    run_dir = tmp_path / "run"
    message = told(capsys, run, run_dir, *options.split(), experiment=experiment)
    assert_says(message, named)
    assert not (run_dir / "config.yaml").exists() and "--resume" not in message


def test_nothing_is_tested_where_nothing_is_to_be(tmp_path):
    run_dir = run(tmp_path / "run", "trainer.limit_test_batches=0", "trainer.max_epochs=1")
    assert len(rows(run_dir)) == 1 and not (run_dir / "metrics.json").exists()


def test_validation_may_go_by_the_clock(tmp_path):
    interval = ["trainer.val_check_interval={hours: 1}", "trainer.max_epochs=1", "tracker=null"]
    assert (run(tmp_path / "run", *interval) / "config.yaml").is_file()


def test_a_run_of_no_steps_has_its_config(tmp_path):
    assert (run(tmp_path / "run", "trainer.max_epochs=0") / "config.yaml").is_file()


def test_epochs_without_validation_are_no_loss_of_patience(tmp_path):
    """Accuracy is measured every second epoch, and cannot rise."""
    options = ["model.lr=0.0", "patience=1", "trainer.check_val_every_n_epoch=2"]
    run_dir = run(tmp_path / "run", *options, "tracker=null", "trainer.max_epochs=9")
    assert len(rows(run_dir)) == 4


@pytest.mark.parametrize("experiment", ["digits", "reviews"])
def test_the_check_of_the_inputs_leaves_everything_as_it_is(tmp_path, experiment):
    options = ["trainer.max_epochs=1", "tracker=null"]
    run_dir = run(tmp_path / "run", *options, experiment=experiment)
    module = load_classifier(run_dir / "checkpoints" / "best.ckpt").train()
    module.backbone.get_submodule("").training = False  # one that was put into evaluation
    modes = [part.training for part in module.modules()]
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    before = random_states()
    module.check_inputs()
    assert random_states() == before
    assert [part.training for part in module.modules()] == modes
    assert_identical(dict(module.state_dict()), weights)
    assert all(parameter.grad is None for parameter in module.parameters())


# --------------------------------------------------------------------------------------- resume


@pytest.fixture(scope="module")
def one_epoch(trained) -> Path:
    return trained("trainer.max_epochs=1")


@pytest.fixture
def run_dir(one_epoch, tmp_path) -> Path:
    return shutil.copytree(one_epoch, tmp_path / "copy")


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("run_dir=elsewhere", "run_dir=elsewhere | own folder | accepted"),
        (
            "model.model_options.depth=3",
            "model.model_options | 'depth': 3 | accepted with --resume",
        ),
        (
            "model.model_options.num_heads=4",
            "model.model_options | 'num_heads': 4 | 'num_heads': 2",
        ),
        ("model.model_options.mlp_ratio=2.0", "model.model_options | 'mlp_ratio': 2.0 | accepted"),
        ("model.name=deit_tiny_patch16_224", "model.name is deit | began with, vit_tiny_patch16"),
        ("model.lr=0.5", "model: | learning rates | accepted with --resume: lr"),
        ("model.weight_decay=0.5", "model: | decays | accepted with --resume"),
        ("model.freeze_backbone=true", "model: | freeze_backbone | accepted with --resume"),
        ("tracker.start_layer=9", "start_layer | 9 | 0 to 1"),
        ("tracker.protocols=[rationales]", "tracker.protocols"),
    ],
)
def test_what_a_resume_cannot_change_is_told(run_dir, capsys, option, named):
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    resume = ["--resume", str(run_dir), "trainer.max_epochs=2", option]
    assert_says(told(capsys, train.main, resume), named)
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize(
    ("options", "samples", "drifts"),
    [
        (["tracker.samples=6"], 6, True),  # as before
        (["tracker.samples=3"], 3, False),
        (["tracker.seed=5"], 6, False),
        (["data.val_size=2"], 2, False),
        (["tracker.method=rollout"], 6, False),
        (["tracker.method=lrp"], 6, False),  # maps of another shape
    ],
)
def test_the_watched_samples_are_those_of_the_config(run_dir, options, samples, drifts):
    """What others looked like, or for another method, is not compared with."""
    train.main(["--resume", str(run_dir), "trainer.max_epochs=2", *options])
    tracker = load(run_dir)["callbacks"]["RelevanceTracker"]
    assert len(tracker["samples"]) == len(tracker["last_maps"]) == samples
    assert ("relevance/drift" in rows(run_dir)[-1]) == drifts


@pytest.mark.parametrize(
    ("part", "value"),
    [
        *((part, None) for part in ("global_step", "without_sources", "state_dict")),
        *((part, None) for part in ("optimizer_states", "loops", "callbacks", "hyper_parameters")),
        *(("without_sources", 5), ("state_dict", {"a": 1}), ("optimizer_states", [5])),
        *(("optimizer_states", []), ("kind", ["vit"])),
    ],
)
def test_a_checkpoint_that_lacks_a_part_is_told(run_dir, capsys, part, value):
    state = load(run_dir)
    del state[part]
    state |= {} if value is None else {part: value}
    last = run_dir / "checkpoints" / "last.ckpt"
    torch.save(state, last)
    message = told(capsys, train.main, ["--resume", str(run_dir), "trainer.max_epochs=2"])
    assert_says(message, f"{last} | accepted")
    if part != "kind" and value in (None, 5):
        assert_says(message, part)


# -------------------------------------------------------------------------------------- explain


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hyper_parameters": 5}, "hyper_parameters"),
        ({"hyper_parameters": {"model_options": {"num_heads": 5}}}, "divisible by num_heads"),
        ({"hyper_parameters": {"model_options": {"img_size": 16}}}, "it is broken"),
        ({"hyper_parameters": {"input_config": {"interpolation": "foo"}}}, "it is broken | foo"),
        ({"hyper_parameters": {"class_names": 5}}, "it is broken"),
        ({"kind": ["vit"]}, "another program"),
        ({"kind": "bert"}, "it is broken | model.config"),
        ({"state_dict": {"a": torch.zeros(1)}}, "it is broken | backbone.cls_token"),
        ({"state_dict": None}, "state_dict"),
    ],
    ids=str,
)
def test_a_broken_checkpoint_is_told_and_asks_no_hub(
    one_epoch, tmp_path, monkeypatch, capsys, change, named
):
    def asked(*arguments, **options):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("transformers.AutoModelForSequenceClassification.from_pretrained", asked)
    path = tmp_path / "some.ckpt"
    state = merge(torch.load(one_epoch / "checkpoints" / "best.ckpt", weights_only=True), change)
    torch.save(state, path)
    message = told(capsys, explain.main, ["--checkpoint", str(path), "--input", __file__])
    assert_says(message, f"{path} | {named} | accepted: ")
    assert message.count("accepted: ") == 1
    with pytest.raises(InputError):
        load_classifier(path)


def merge(below: dict, above: dict) -> dict:
    """With ``hyper_parameters`` merged, too; anything else is replaced."""
    merged = below | above
    if isinstance(hyper := above.get("hyper_parameters"), dict):
        ours = below["hyper_parameters"]
        merged["hyper_parameters"] = ours | {
            name: ours[name] | value if isinstance(value, dict) else value
            for name, value in hyper.items()
        }
    return merged


def test_options_of_training_do_not_matter_to_what_explains(one_epoch, tmp_path):
    """A checkpoint of a version that accepted them, and had others."""
    change = {"hyper_parameters": {"layer_decay": 1.1, "warmup": 2.0, "no_longer": 1}}
    state = merge(torch.load(one_epoch / "checkpoints" / "best.ckpt", weights_only=True), change)
    torch.save(state, tmp_path / "some.ckpt")
    assert load_classifier(tmp_path / "some.ckpt").hparams.layer_decay == 1.1


def test_a_device_without_memory_is_told(one_epoch, tmp_path, capsys):
    command = ["--checkpoint", str(one_epoch), "--input", __file__, "--device", "meta"]
    message = told(capsys, explain.main, [*command, "--output", str(tmp_path / "out")])
    assert_says(message, "--device meta | accepted: auto, cpu")


def test_an_explained_checkpoint_is_what_train_wrote(one_epoch):
    module = load_classifier(one_epoch / "checkpoints" / "last.ckpt")
    assert not module.training
    assert_identical(dict(module.state_dict()), dict(load(one_epoch)["state_dict"]))
