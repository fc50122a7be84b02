"""What a stranger registers in a module of their own, without an edit anywhere else.

Every command runs in a process of its own, which knows of the module by --import alone.
"""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lightning_modules.modalities import Images, Modality
from lightning_modules.protocols import PROTOCOLS
from lightning_modules.utils.errors import InputError
from tests.helpers.methods import OF_ALL_INPUTS
from tests.helpers.processes import ROOT, finish
from tests.helpers.runs import DIGITS, TRAINER

OWN = ROOT / "tests" / "helpers" / "own"
DIAGNOSES = {"class_projection"}
OWN_METHODS = ["left_or_right", *(f"attention_{power}" for power in range(1, 11))]


def command(script: str, *arguments: str, module: str | None, code: int = 0) -> str:
    """Run train.py or explain.py where the modules lie; what it prints."""
    imports = [] if module is None else ["--import", module]
    done = finish(script, *arguments, *imports, cwd=OWN, PYTHONPATH=str(ROOT))
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


# ---------------------------------------------------------------------------------- a method


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("own") / "run"
    options = [x.replace("--config=", f"--config={ROOT}/") for x in DIGITS]
    tracked = ["trainer.max_epochs=1", "tracker.method=left_or_right", f"run_dir={run_dir}"]
    command("train.py", *options, *tracked, module="my_methods")
    return run_dir


def test_an_own_method_is_tracked_with_its_sign(digits):
    """Blue on the left, where it is against the class, and red on the right, where it is for it.

    On the watched picture's first row, of which the second panel is the map.
    """
    picture = np.asarray(Image.open(digits / "explanations" / "epoch=000.png")).astype(int)
    map_ = picture[45 + 36 :][:140, 10 + 148 :][:, :140]  # below the heading, past the input
    top, bottom = map_[:20].mean(axis=(0, 1)), map_[-20:].mean(axis=(0, 1))
    assert top[2] > top[0] + 20 and bottom[0] > bottom[2] + 20
    assert "imports:\n- my_methods" in (digits / "config.yaml").read_text()


def test_own_methods_are_explained(digits, tmp_path):
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    command(
        "explain.py",
        *("--checkpoint", str(digits), "--input", str(tmp_path / "red.png"), "--output"),
        *(str(tmp_path / "out"), "--method", *OWN_METHODS, "--format", "png,html,json"),
        module="my_methods",
    )
    (entry,) = json.loads((tmp_path / "out" / "explanations.json").read_text())["inputs"]
    assert list(entry["relevance"]) == OWN_METHODS
    signed = np.array(entry["relevance"]["left_or_right"][0])
    assert signed.shape == (8, 8) and signed[0, 0] == -1 and signed[-1, -1] == 1
    page = (tmp_path / "out" / "explanations.html").read_text()
    about = "Against the class at the beginning of the input, for it at the end."
    assert f'{{"name":"left_or_right","signed":true,"about":"{about}"}}' in page
    assert '{"name":"attention_1","signed":false' in page


def test_own_methods_are_scored(digits, tmp_path):
    printed = command(
        "explain.py",
        *("evaluate", "--checkpoint", str(digits), "--protocol", "specificity", "--limit", "4"),
        *("--output", str(tmp_path)),
        module="my_methods",
    )
    with open(tmp_path / "scores.csv") as file:
        scored = {row["method"] for row in csv.DictReader(file)}
    assert scored >= {*OWN_METHODS, *set(OF_ALL_INPUTS) - DIAGNOSES, "random", "saliency"}
    assert not scored & DIAGNOSES
    assert all(method in printed for method in OWN_METHODS)
    assert Image.open(tmp_path / "scores.png").size[0] > 100


def test_an_own_method_is_not_known_without_its_module(digits):
    told = command(
        "explain.py",
        *("--checkpoint", str(digits), "--input", ".", "--method", "left_or_right"),
        module=None,
        code=2,
    )
    assert "was it registered by a module? --import my_methods" in told


# -------------------------------------------------------------------------------- a modality


def train_vectors(run_dir: Path, kind: str, *options: str) -> str:
    config = run_dir.parent / f"{kind}.yaml"
    config.write_text(
        f"run_dir: {run_dir}\nmodel: {{kind: {kind}, lr: 0.003}}\n"
        f"data: {{kind: {kind}s, batch_size: 16}}\ntracker: {{samples: 4}}\ntrainer: {{}}\n"
    )
    return command("train.py", *TRAINER, f"--config={config}", *options, module="vectors")


@pytest.fixture(scope="module", params=["vector", "pictured_vector"])
def trained(request, tmp_path_factory) -> tuple[str, Path]:
    run_dir = tmp_path_factory.mktemp("vectors") / "run"
    train_vectors(run_dir, request.param, "trainer.max_epochs=1")
    command("train.py", "--resume", str(run_dir), "trainer.max_epochs=2", module="vectors")
    return request.param, run_dir


def test_an_own_modality_trains_is_tracked_and_resumed(trained):
    kind, run_dir = trained
    with open(run_dir / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    sources = [""] if kind == "vector" else ["image/", "vector/"]
    for source in sources:
        assert 0 <= float(rows[-1][f"relevance/{source}concentration"]) <= 1
    assert float(rows[-1]["relevance/drift"]) > 0
    assert len(list((run_dir / "explanations").glob("epoch=*.png"))) == 2


def test_an_own_modality_is_explained_by_every_method(trained, tmp_path):
    kind, run_dir = trained
    random = np.random.default_rng(0)
    inputs = {"vector": tmp_path / "a.vec", "image": tmp_path / "a.png"}
    np.savetxt(inputs["vector"], random.normal(size=6))
    pixels = random.integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(inputs["image"])
    if kind == "vector":
        given = [str(inputs["vector"])]
    else:
        given = [f"{name}={path}" for name, path in inputs.items()]
    out = tmp_path / "out"
    command(
        "explain.py",
        *("--checkpoint", str(run_dir), "--method", "all", "--output", str(out)),
        *("--format", "png,html,npz,json", "--input", *given),
        module="vectors",
    )
    (entry,) = json.loads((out / "explanations.json").read_text())["inputs"]
    parts = {"vector": entry} if kind == "vector" else entry["sources"]
    for name, part in parts.items():
        assert list(part["relevance"]) == OF_ALL_INPUTS
        for relevance in part["relevance"].values():
            shape = (1, 6) if name == "vector" else (1, 4, 4)
            assert np.array(relevance).shape == shape and np.isfinite(relevance).all()
    assert len(list(out.glob("*.png"))) == 1
    assert '"shown":"drawings"' in (out / "explanations.html").read_text()


def test_a_file_of_an_own_modality_may_hold_several_inputs(trained, tmp_path):
    kind, run_dir = trained
    if kind != "vector":
        pytest.skip("of one source")
    rows = np.random.default_rng(0).normal(size=(3, 6))
    np.savetxt(tmp_path / "three.vecs", rows)
    np.savetxt(tmp_path / "one.vec", rows[1])
    command(
        "explain.py",
        *("--checkpoint", str(run_dir), "--output", str(tmp_path), "--format", "png,json"),
        *("--input", str(tmp_path / "three.vecs"), str(tmp_path / "one.vec")),
        module="vectors",
    )
    entries = json.loads((tmp_path / "explanations.json").read_text())["inputs"]
    names = [f"{tmp_path}/three.vecs, line {number}" for number in (1, 2, 3)]
    assert [entry["name"] for entry in entries] == [*names, f"{tmp_path}/one.vec"]
    assert len(list(tmp_path.glob("*.png"))) == 4
    np.testing.assert_allclose(
        entries[1]["relevance"]["transformer_attribution"],
        entries[3]["relevance"]["transformer_attribution"],
        rtol=1e-5,
    )
    assert entries[0]["relevance"] != entries[1]["relevance"]


def test_an_own_modality_is_exported_without_a_word_for_its_task(trained, tmp_path):
    _, run_dir = trained
    out = str(tmp_path / "out")
    command("train.py", "export", str(run_dir), "--to", "safetensors", out, module="vectors")
    card = (tmp_path / "out" / "README.md").read_text()
    is_pictured = trained[0] == "pictured_vector"
    assert ("pipeline_tag: image-classification" in card) == is_pictured


def test_an_own_modality_is_scored(trained, tmp_path):
    _, run_dir = trained
    methods = ["rollout", "lrp", "saliency", "integrated_gradients", "random"]
    command(
        "explain.py",
        *("evaluate", "--checkpoint", str(run_dir), "--protocol", "sanity", "--limit", "4"),
        *("--output", str(tmp_path), "--method", *methods),
        module="vectors",
    )
    with open(tmp_path / "scores.csv") as file:
        assert {row["method"] for row in csv.DictReader(file)} == set(methods)


class Numbers(Modality):
    called = "vector"
    read = batch = None


@pytest.mark.parametrize(
    ("sources", "there"),
    [
        ({"vector": Numbers("vector", {})}, "vectors"),
        ({"image": Images("image", {}), "vector": Numbers("vector", {})}, "images and vectors"),
    ],
)
def test_a_protocol_of_another_modality_is_refused(sources, there):
    with pytest.raises(InputError, match=f"the data are {there}; accepted: texts"):
        PROTOCOLS["rationales"](SimpleNamespace(sources=sources), None)


# An untrained model, always the same: of another, a method that clamps at 0 may find nothing.
WATCH_ALL = """
import torch, vectors
from tests.helpers.methods import OF_ALL_INPUTS
torch.manual_seed(0)
from lightning_modules.callbacks.watch import Watch
from lightning_modules.data import DATAMODULES
from lightning_modules import CLASSIFIERS
for kind in ("vector", "pictured_vector"):
    data = DATAMODULES[f"{kind}s"]()
    model = CLASSIFIERS[kind](data.class_names, data.input_config)
    for method in OF_ALL_INPUTS:
        report = Watch(model, data, {"method": method}, epoch=0).samples([0, 1])
        assert report.broken is None and report.maps.isfinite().all() and report.maps.any(), method
        assert report.maps.shape == (2, 6 if kind == "vector" else 22)
        assert report.pictures["samples"].shape[2] == 3
"""


def test_an_own_modality_is_tracked_by_every_method(tmp_path):
    script = tmp_path / "watch_all.py"
    script.write_text(WATCH_ALL)
    done = finish(script, PYTHONPATH=f"{ROOT}:{OWN}")
    assert done.returncode == 0, done.stderr
