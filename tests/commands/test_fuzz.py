"""Whatever is thrown at the readers: a result, or one clear line; never a traceback.

And the file that they read is as before.
"""

import io
import json
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

import train
from configs.schema import ConfigError, load_config
from configs.sections import UnknownKind
from lightning_modules import CLASSIFIERS
from lightning_modules.data import DATAMODULES
from lightning_modules.data.graphs.jsonl import read_graphs
from lightning_modules.data.images.files import read_image, read_mask
from lightning_modules.data.labels import label_reader
from lightning_modules.data.labels.names import name_classes
from lightning_modules.data.texts.eraser import read_annotations
from lightning_modules.data.texts.sst import read_trees
from lightning_modules.data.texts.table import read_table
from lightning_modules.modalities import Images
from lightning_modules.modalities.texts.draw import escape, shares
from lightning_modules.models.checkpoints import load_classifier, read_checkpoint
from lightning_modules.protocols import Progress
from lightning_modules.protocols.localisation import Segmentation
from lightning_modules.protocols.scoring import KEPT, load_progress, save_progress
from lightning_modules.tasks import Multiclass
from lightning_modules.utils.checkpoint_files import find_checkpoint
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.names import one_line, slug
from lightning_modules.utils.run_folder import last_checkpoint
from relprop.errors import UnknownName
from tests.helpers.runs import run

CASES = settings(  # as many as the profile says: tests/conftest.py
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
FEWER = settings(CASES, max_examples=settings.default.max_examples // 4)  # of many files each
TOLD = (InputError, ConfigError, UnknownKind, UnknownName, ValueError)
TOLD += (FileNotFoundError, FileExistsError, IsADirectoryError)


def check(read, path: Path, content: bytes):
    """The result of reading, or None; the error is one line, the file unchanged."""
    path.write_bytes(content)
    try:
        return told(lambda: read(path))
    finally:
        assert path.read_bytes() == content


def told(use):
    """What comes of it, or None; the error is one line."""
    try:
        return use()
    except TOLD as error:
        assert type(error) in TOLD  # a JSONDecodeError or UnicodeError is no message of ours
        assert str(error).strip() and len(str(error).splitlines()) == 1, repr(error)
    return None


@st.composite
def damaged(draw, originals: list[bytes]):
    """A file, cut off or with some bytes exchanged."""
    content = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(0, 8))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.integers(0, len(content)) | st.just(len(content)))])


def pictures() -> list[bytes]:
    noise = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    files = []
    for kind, mode in (("PNG", "RGBA"), ("JPEG", "RGB"), ("GIF", "P"), ("TIFF", "CMYK"),
                       ("BMP", "L"), ("WEBP", "RGB"), ("PPM", "RGB"), ("JPEG2000", "LA"),
                       ("PNG", "I;16"), ("TIFF", "I;16"), ("PPM", "I")):  # fmt: skip
        file = io.BytesIO()
        image = Image.fromarray(noise)
        (image.convert("L") if mode[0] == "I" else image).convert(mode).save(file, kind)
        files.append(file.getvalue())
    return files


@CASES
@given(damaged(pictures()) | st.binary(max_size=200))
@pytest.mark.filterwarnings("ignore")
def test_images(tmp_path, content):
    for read, mode in ((read_image, "RGB"), (read_mask, "L")):
        image = check(read, tmp_path / "a.png", content)
        assert image is None or (image.mode == mode and min(image.size) > 0)


GRAPH = (
    '{"nodes": [[1, 0], [0, 1], [1, 0]], "edges": [[0, 1], [2, 1]], "edge_features": [[1], [2]], '
    '"label": "a", "deciding": [[1, 2]], "positions": [[0, 1], [1, 1], [2.5, -1e3]]}\n'
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


def graphs(path: Path) -> list:
    return read_graphs("train", str(path), label_reader("multiclass", "label", "|"), False, None)


def check_graphs(rows: list | None) -> None:
    for _, item in rows or ():
        graph = item["graph"]
        assert np.isfinite(graph.nodes).all() and len(graph.edges) == len(graph.edge_features)
        assert 0 <= graph.edges.min() and graph.edges.max() < len(graph.nodes)


@CASES
@given(damaged([2 * GRAPH.encode()]) | st.binary(max_size=200))
def test_files_of_graphs(tmp_path, content):
    check_graphs(check(graphs, tmp_path / "a.jsonl", content))


@CASES
@given(st.sampled_from([*json.loads(GRAPH)]), ANYTHING)
def test_graphs_with_anything_in_a_place(tmp_path, name, value):
    content = json.dumps(json.loads(GRAPH) | {name: value}).encode()
    check_graphs(check(graphs, tmp_path / "a.jsonl", content))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> bytes:
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    run(path, "trainer.max_epochs=1", "tracker=null", "trainer.limit_train_batches=1")
    return (path / "checkpoints" / "last.ckpt").read_bytes()


@CASES
@given(st.data())
def test_checkpoints(checkpoint, tmp_path, data):
    state = check(read_checkpoint, tmp_path / "a.ckpt", data.draw(damaged([checkpoint])))
    assert state is None or state["kind"] in CLASSIFIERS


@pytest.fixture(scope="module")
def whole_run(checkpoint, tmp_path_factory) -> dict[str, bytes]:
    """Every file of a run, by its path there; the weights are few."""
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    files = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
    assert {"config.yaml", "checkpoints/last.ckpt"} < files.keys()
    assert any("tfevents" in name for name in files)
    return {name: path.read_bytes() for name, path in files.items()}


@FEWER
@given(st.data())
def test_run_folders(whole_run, tmp_path, data):
    """Files of a run are missing, damaged, or folders; those that are there stay as they are."""
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    for name, content in whole_run.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        fate = data.draw(st.sampled_from(["whole", "whole", "damaged", "missing", "folder"]))
        if fate == "folder":
            path.mkdir()
        elif fate != "missing":
            path.write_bytes(data.draw(damaged([content])) if fate == "damaged" else content)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def resume():
        config = train.read_config(train.parse(["--resume", str(folder)]))
        last = last_checkpoint(Path(config.run_dir), resume=True, trial=False)
        step = 0 if last is None else read_checkpoint(last)["global_step"]
        logger = TensorBoardLogger(folder, name="", version="", purge_step=step)
        logger.experiment.add_scalar("train/loss", 1.0, step)
        logger.experiment.close()

    for use in (resume, lambda: load_classifier(find_checkpoint(folder))):
        told(use)
        assert all(path.read_bytes() == content for path, content in before.items())
    shutil.rmtree(folder)


OF_IMAGES = SimpleNamespace(  # of a classifier
    sources={"image": Images("image", {})},
    task=Multiclass(["a", "b"]),
    decides_by_sources=True,
)


@pytest.fixture(scope="module")
def progress_file(tmp_path_factory) -> bytes:
    """What an evaluation that was cut off has left."""
    folder, protocol = tmp_path_factory.mktemp("scores"), Segmentation(OF_IMAGES, None)
    metrics = protocol.metrics()
    for metric in metrics.values():
        metric.rows = [torch.rand(2, 5, dtype=torch.float64)]
    save_progress(Progress(4, 8, {"rollout": metrics}, {"lrp": "why"}), {"limit": 8}, folder)
    return (folder / KEPT).read_bytes()


@CASES
@given(st.data())
def test_evaluations_that_were_cut_off(progress_file, tmp_path, data):
    def read(path):
        return load_progress(
            Segmentation(OF_IMAGES, None),
            {"limit": 8},
            path.parent,
        )

    progress = check(read, tmp_path / KEPT, data.draw(damaged([progress_file])))
    assert progress is None or (progress.done, progress.total) == (4, 8)


TABLES = [
    b'text,label\n"a, ""b""",x\nc d,y\n',
    "\ufefftext,label\r\n\u00fcber,x\r\n".encode(),
    b'{"text": "a b", "label": 1, "rationale": [[0, 1]]}\n{"text": "c", "label": "x"}\n',
    b"text\tlabel\na b\tx\n",
]


@CASES
@given(damaged(TABLES) | st.text().map(lambda text: text.encode(errors="replace")) | st.binary(),
       st.sampled_from(["csv", "tsv", "jsonl"]))  # fmt: skip
def test_tables(tmp_path, content, kind):
    def read(path):
        return read_table(
            "train", str(path), "text", label_reader("multiclass", "label", "|"), None
        )

    rows = check(read, tmp_path / f"a.{kind}", content)
    assert rows is None or all(item["text"].strip() for _, item in rows)
    names = told(lambda: name_classes(rows or []))
    assert names is None or len(names) == len(set(names)) and all(map(str.strip, names))


@CASES
@example(b"#")  # what once stood for a subtree
@given(damaged([b"(3 (2 A) (3 (4 great) (2 film)))\n(1 (1 bad) (2 film))\n"]) | st.binary())
def test_trees(tmp_path, content):
    items = check(read_trees, tmp_path / "train.txt", content)
    assert items is None or all(item["text"] for item in items)


ANNOTATION = (
    b'{"annotation_id": "doc", "classification": "POS", "evidences": [[{"docid": "doc", '
    b'"start_token": 1, "end_token": 2, "text": "b"}]]}\n'
)


@CASES
@given(damaged([ANNOTATION]))
def test_annotations(tmp_path, content):
    (tmp_path / "docs").mkdir(exist_ok=True)
    (tmp_path / "docs" / "doc").write_text("a b c")
    rows = check(read_annotations, tmp_path / "train.jsonl", content)
    assert rows is None or all(item["text"] for _, item in rows)


CONFIGS = [path.read_bytes() for path in Path("configs").glob("*.yaml")]


@CASES
@given(damaged(CONFIGS), st.lists(st.text(max_size=20), max_size=2))
def test_configs(tmp_path, content, overrides):
    config = check(lambda path: load_config(path, overrides), tmp_path / "a.yaml", content)
    assert config is None or config.data.kind in DATAMODULES


@pytest.fixture(scope="module")
def reviews():
    return DATAMODULES["reviews"](train_size=60, val_size=10, test_size=10, vocab_size=300)


@CASES
@given(st.lists(st.text(max_size=60), min_size=1, max_size=4))
def test_texts(reviews, texts):
    """Any text has its words where they stand in it, and each token is of one of them."""
    items = [{"text": text, "label": 0, "rationale": None} for text in texts]
    batch = reviews.collate(items)
    for row, (text, words) in enumerate(zip(texts, batch["words"], strict=True)):
        assert [text[start:end] for start, end in words] == text.split()
        ids = batch["word_ids"][row]
        assert ids.max() < max(len(words), 1)
        assert (ids[batch["special"][row]] == -1).all()


@CASES
@given(st.text(max_size=300))
def test_names_and_texts_in_what_we_write(name):
    assert slug(name).isascii() and "/" not in slug(name) and len(slug(name)) < 80
    assert one_line(name).isprintable()
    escaped = escape(name)
    assert "<" not in escaped and "\n" not in escaped and escaped.isprintable()


@CASES
@given(st.lists(st.floats(allow_nan=True, width=32), max_size=12), st.booleans())
def test_shares(scores, signed):
    """Shares of the highest, whatever the scores: what is no number stays none."""
    finite = [x for x in scores if np.isfinite(x) or np.isnan(x)]
    for (_, share), score in zip(shares([("w", x) for x in finite], signed), finite, strict=True):
        assert np.isnan(share) == np.isnan(score)
        assert np.isnan(share) or -1 - 1e-6 <= share <= 1 + 1e-6
