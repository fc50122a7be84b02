"""Runs on images in tar files and on data sets of Hugging Face's datasets."""

import json

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features
from datasets import Image as ImageFeature

import explain
import train
from tests.helpers.processes import finish
from tests.helpers.runs import assert_identical, assert_same_end, load
from tests.helpers.samples import save
from tests.helpers.tars import tar_of_classes

NAMES = ("bright", "dark")
COUNTS = {"train": 8, "val": 4, "test": 3}
CONFIG = """
model:
  kind: {model}
data: {{batch_size: 8, {data}}}
tracker: {{samples: 4}}
trainer: {{max_epochs: 2, accelerator: cpu, enable_progress_bar: false, log_every_n_steps: 1}}
"""
VIT = """vit
  name: vit_tiny_patch16_224
  model_options: {patch_size: 8, embed_dim: 16, depth: 2, num_heads: 2, drop_path_rate: 0.1}"""
BERT = """bert
  config: {model_type: bert, hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2,
    intermediate_size: 32, max_position_embeddings: 32}"""
STEPS = 3  # of 4: within the second epoch


def fit(folder, model: str, data: str, *overrides: str):
    folder.mkdir()
    path = folder / "experiment.yaml"
    path.write_text(CONFIG.format(model=model, data=data))
    train.main([f"--config={path}", f"run_dir={folder / 'run'}", *overrides])
    return folder / "run"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The same pictures in folders, in shards and as datasets; and texts as datasets."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in COUNTS.items():
        for place, name in enumerate(NAMES):
            for number in range(count):
                pixels = rng.integers(0, 128, (40, 36, 3), dtype=np.uint8) + 127 * (1 - place)
                save(root / "folders" / split / name / f"{number}.png", pixels.astype(np.uint8))
        tar_of_classes(root / "folders" / split, root / "tars" / split, shards=3)
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=list(NAMES))})
    pictures, texts = {}, {}
    for split, count in COUNTS.items():
        files = sorted((root / "folders" / split).glob("*/*"))
        labels = [NAMES.index(file.parent.name) for file in files]
        columns = {"image": [file.read_bytes() for file in files], "label": labels}
        encoded = [{"bytes": content, "path": None} for content in columns["image"]]
        pictures[split] = Dataset.from_dict(columns | {"image": encoded}, features)
        said = [f"{('good', 'bad')[i % 2]} film, number {i}" for i in range(2 * count)]
        texts[split] = Dataset.from_dict({"text": said, "label": ["good", "bad"] * count})
    DatasetDict(pictures).save_to_disk(str(root / "pictures"))
    DatasetDict(texts).save_to_disk(str(root / "texts"))
    size = "image_size: 32, auto_augment: null"
    tars = ", ".join(f"{split}: '{root}/tars/{split}-*.tar'" for split in COUNTS)
    return {
        "folders": (VIT, f"kind: image_folder, root: '{root}/folders', {size}"),
        "tars": (VIT, f"kind: image_tars, {tars}, {size}"),
        "pictures": (VIT, f"kind: hf, path: '{root}/pictures', {size}"),
        "texts": (BERT, f"kind: hf, path: '{root}/texts', max_length: 16, vocab_size: 60"),
        "root": root,
    }


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """An undisturbed run on each kind of data, with workers on what has a file's pictures."""
    root, made = tmp_path_factory.mktemp("runs"), {}
    workers = {"folders": 0, "tars": 2, "pictures": 2, "texts": 0}

    def run(kind: str):
        if kind not in made:
            made[kind] = fit(root / kind, *data[kind], f"data.num_workers={workers[kind]}")
        return made[kind]

    return run


@pytest.mark.parametrize("kind", ["tars", "pictures"])
def test_training_and_tracking_are_those_of_the_same_pictures_in_folders(runs, kind):
    assert_same_end(runs(kind), runs("folders"))


@pytest.mark.parametrize("kind", ["tars", "pictures", "texts"])
def test_a_run_goes_on_within_an_epoch_and_its_tracker_leaves_no_trace(data, runs, tmp_path, kind):
    """Neither the stop, nor the number of workers, nor a tracker changes a weight."""
    options = ("data.num_workers=0", "tracker=null")
    run_dir = fit(tmp_path / "it", *data[kind], *options, f"trainer.max_steps={STEPS}")
    assert load(run_dir)["global_step"] == STEPS
    train.main(["--resume", str(run_dir), "trainer.max_steps=-1"])
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert_identical(load(run_dir)[part], load(runs(kind))[part], part)


@pytest.mark.parametrize(
    ("kind", "protocol"), [("tars", "perturbation"), ("pictures", "sanity"), ("texts", "sanity")]
)
def test_a_run_is_scored_and_explained(data, runs, tmp_path, capsys, kind, protocol):
    checkpoint = runs(kind) / "checkpoints" / "best.ckpt"
    arguments = ["--checkpoint", str(checkpoint), "--output", str(tmp_path / "out")]
    scoring = ["--protocol", protocol, "--method", "rollout", "--limit", "2"]
    explain.main(["evaluate", *arguments, *scoring])
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["scores"]
    picture = data["root"] / "folders" / "test" / "dark" / "0.png"
    given = ["--text", "good film"] if kind == "texts" else ["--input", str(picture)]
    explain.main([*arguments, *given, "--format", "html,json"])
    about = json.loads((tmp_path / "out" / "explanations.json").read_text())
    assert about["class_names"] == (["bad", "good"] if kind == "texts" else list(NAMES))
    page = (tmp_path / "out" / "explanations.html").read_text()
    assert about["class_names"][about["inputs"][0]["predicted"]] in page


def test_a_wrong_shard_is_one_line(data, tmp_path, capsys):
    (tmp_path / "a.tar").write_bytes(b"\x1f\x8b")
    with pytest.raises(SystemExit) as ended:
        fit(tmp_path / "it", VIT, f"kind: image_tars, train: '{tmp_path}/a.tar'")
    assert ended.value.code == 2 and not (tmp_path / "it" / "run").exists()
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"train.py: {tmp_path}/a.tar: compressed (gzip); accepted: ")


def test_datasets_is_not_imported_unless_it_is_used(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, train, lightning_modules.experiment\nprint('datasets' in sys.modules)\n"
    )
    ended = finish(script)
    assert ended.stdout.strip() == "False", ended.stderr
