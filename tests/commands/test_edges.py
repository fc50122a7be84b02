"""The smallest and emptiest of everything: no relevance, one class, one word, one pixel."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Trainer
from PIL import Image

import explain
import relprop
import train
from lightning_modules import ViTClassifier
from lightning_modules.callbacks.watch import concentration
from lightning_modules.explanations.files import FORMATS, write_all
from lightning_modules.explanations.results import Result
from lightning_modules.metrics import (
    ClassSpecificity,
    Faithfulness,
    PerturbationAccuracy,
    RankCorrelation,
    RationaleAUPRC,
    Segmentation,
    TokenF1,
    perturb,
)
from lightning_modules.modalities.images import draw as render
from lightning_modules.modalities.texts import draw as render_text
from tests.commands import test_page
from tests.helpers.methods import OF_ALL_INPUTS, OF_TEXTS
from tests.helpers.results import as_written, of_picture, of_text
from tests.helpers.runs import ONE_EPOCH, TRAINER, curve, load, rows, run

browser, open_page = test_page.browser, test_page.open_page
KINDS = pytest.mark.parametrize("kind", ["digits", "reviews"])
METHODS = ["transformer_attribution", "lrp"]  # of patches and of pixels; unsigned and signed
WORDS = [(0, 5), (6, 13), (14, 16)]  # of "never boring, no"


def zero_result(kind: str) -> Result:
    about = dict(
        name="zero",
        class_names=["cat", "dog"],
        logits=np.log([0.5, 0.5]),
        activation="softmax",
        classes=[0, 1],
        label=1,
    )
    shapes = {"reviews": [(2, 3)] * 2, "digits": [(2, 4, 4), (2, 32, 32)]}[kind]
    maps = {m: np.zeros(s, dtype=np.float32) for m, s in zip(METHODS, shapes, strict=True)}
    if kind == "reviews":
        return of_text("never boring, no", WORDS, maps, **about)
    return of_picture(Image.new("RGB", (32, 32), "grey"), maps, **about)


# ---------------------------------------------------------------------------------- no relevance


@pytest.mark.parametrize("signed", [False, True])
def test_a_heatmap_of_zeros_is_drawn_as_nothing(signed):
    logits, target = torch.zeros(1, 2), torch.zeros(1, dtype=torch.long)
    heatmap = relprop.Explanation(torch.zeros(1, 16), target, logits, (4, 4)).heatmap((32, 32))
    assert heatmap.shape == (1, 32, 32) and (heatmap == 0).all()
    assert (render.scale(heatmap, signed) == 0).all()
    over = render.overlay(torch.rand(3, 32, 32), heatmap[0], signed)
    assert np.isfinite(over).all() and over.min() >= 0 and over.max() <= 1


@KINDS
def test_a_picture_of_zeros(kind):
    drawn = zero_result(kind).picture()
    assert drawn.ndim == 3 and drawn.dtype == np.uint8


def test_words_without_relevance_are_all_alike():
    for signed in (False, True):
        words = render_text.shares([("never", 0.0), ("boring", 0.0)], signed)
        assert words == [("never", 0.0), ("boring", 0.0)]
        paragraph = render_text.Paragraph("caption", words, signed=signed)
        assert "*" not in render_text.markdown([[paragraph]])
    printed = zero_result("reviews").parts["text"].terminal_text(zero_result("reviews"))
    assert all(word in printed.plain for word in ("never", "boring,", "no"))


@KINDS
def test_a_page_of_zeros(open_page, kind):
    page = open_page([zero_result(kind)])  # which would tell of an error of its script
    for method in METHODS:
        page.select_option("#method", label=method)
    (page.locator("canvas") if kind == "digits" else page.locator(".word")).first.hover()
    assert page.inner_text("#tip").split()[0] == "0"


@KINDS
def test_zeros_in_files(tmp_path, kind):
    write_all(*as_written([zero_result(kind)]), FORMATS, {"title": "zero"}, tmp_path)
    (entry,) = json.loads((tmp_path / "explanations.json").read_text())["inputs"]
    for method in METHODS:
        assert not np.any(entry["relevance"][method])
        assert not np.load(tmp_path / "explanations.npz")[f"relevance/{method}"].any()


ZEROS, HALF = torch.zeros(2, 8, 8), torch.arange(64).view(1, 8, 8).expand(2, -1, -1) < 32
SEEN, TWO = torch.ones(2, 4, dtype=torch.bool), torch.tensor([[1, 1, 0, 0]] * 2).bool()
CASES = {
    # Nothing is called object; every order of the pixels is as good.
    "segmentation": (
        Segmentation,
        (ZEROS, HALF),
        {"pixel_accuracy": 0.5, "mIoU": 0.25, "mAP": 0.5},
    ),
    "no object": (Segmentation, (ZEROS, HALF & False), {"pixel_accuracy": 1.0}),
    "specificity": (ClassSpecificity, (ZEROS, HALF, ~HALF), {"class_specificity": 0.5}),
    "sanity": (RankCorrelation, (ZEROS, torch.rand(2, 8, 8)), {"rank_correlation": 0}),
    "both zero": (RankCorrelation, (ZEROS, ZEROS), {"rank_correlation": 1}),
    "token F1": (lambda: TokenF1([2, 4]), (torch.zeros(2, 4), TWO, SEEN), {}),
    "auprc": (
        RationaleAUPRC,
        (torch.zeros(2, 4), TWO, SEEN, torch.tensor([4, 4])),
        {"auprc": 0.75},  # from precision 1/2 at recall 1 to the 1 at recall 0, by convention
    ),
    "faithfulness": (
        Faithfulness,
        (torch.zeros(2), torch.zeros(2, 5), torch.zeros(2, 5)),
        {"comprehensiveness": 0, "sufficiency": 0},
    ),
}


@pytest.mark.parametrize(("metric", "inputs", "expected"), CASES.values(), ids=CASES)
def test_metrics_of_zeros(metric, inputs, expected):
    metric = metric()
    metric.update(*inputs)
    scores = metric.compute()
    for name, value in scores.items():
        assert ((value >= 0) & (value <= 1)).all(), name
    assert {name: scores[name].item() for name in expected} == pytest.approx(expected)
    for low, high in metric.intervals(draws=10).values():
        assert low.isfinite().all() and high.isfinite().all()


@pytest.mark.parametrize("most_relevant", [True, False])
def test_without_relevance_as_many_pixels_go(most_relevant):
    gone = perturb(torch.ones(2, 3, 8, 8), ZEROS, 0.5, most_relevant, torch.zeros(3))
    assert (gone == 0).flatten(1).float().mean(dim=1).tolist() == [0.5, 0.5]
    metric = PerturbationAccuracy()
    metric.update(torch.zeros(2, 9), torch.tensor([0, 1]))
    assert metric.compute()["auc"].item() == pytest.approx(0.5)


def test_relevance_nowhere_is_not_concentrated():
    maps = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 0.0, 0.0]])
    assert concentration(maps).tolist() == pytest.approx([0, 0, 1], abs=1e-6)


@KINDS
def test_the_tracker_watches_relevance_that_is_zero(tmp_path, monkeypatch, kind):
    rule = relprop.rules.PAPER["matmul"]

    def nothing(relevance, *args, eps):
        return tuple(r * 0 for r in rule(relevance, *args, eps=eps))

    monkeypatch.setitem(relprop.rules.PAPER, "matmul", nothing)
    run_dir = run(tmp_path / "run", "trainer.max_epochs=2", experiment=kind)
    assert load(run_dir)["callbacks"]
    assert_finite(run_dir, epochs=2)
    assert len(list((run_dir / "explanations").glob("epoch=*.png"))) == 2
    assert curve(run_dir, "relevance/drift")[-1][1] == 0  # nothing has changed


# ------------------------------------------------------------------- one class, one sample, none


def assert_finite(run_dir: Path, epochs: int = 1) -> list[dict]:
    """All numbers of a run, in its table and of its test."""
    table = rows(run_dir)
    assert len(table) == epochs
    for row in (*table, json.loads((run_dir / "metrics.json").read_text())):
        for name, value in row.items():
            assert name == "relevance/drift" and value == "" or math.isfinite(float(value)), name
    return table


def image_folder(root: Path, **classes: list[str]) -> list[str]:
    """Options of a run on noise, with two images of each class that a split has."""
    random = np.random.default_rng(0)
    for split, names in classes.items():
        for name in names:
            for number in range(2):
                path = root / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                noise = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(noise).save(path)
    return [
        *("--config=configs/deit_image_folder.yaml", f"data.root={root}", "data.num_workers=0"),
        *("data.image_size=32", "data.batch_size=2", "model.pretrained=false"),
        *("model.mixup=0", "model.cutmix=0", "trainer.precision=32-true"),
        "model.model_options={patch_size: 8, embed_dim: 24, depth: 2, num_heads: 2}",
    ]


def text_table(root: Path, **classes: list[str]) -> list[str]:
    """The same of texts."""
    for split, names in classes.items():
        with open(root / f"{split}.csv", "w", newline="") as file:
            table = [(f"a {name} film {number}", name) for name in names for number in range(2)]
            csv.writer(file).writerows([("text", "label"), *table])
    return [
        *("--config=configs/bert_reviews.yaml", "data.kind=text_table", "data.vocab_size=60"),
        *(f"data.train={root / 'train.csv'}", f"data.val={root / 'val.csv'}"),
        *("data.batch_size=2", "model.config.hidden_size=16", "model.config.num_hidden_layers=2"),
    ]


def fit(run_dir: Path, options: list[str]) -> Path:
    train.main([*TRAINER, *options, "trainer.max_epochs=1", f"run_dir={run_dir}"])
    return run_dir


DATA = pytest.mark.parametrize("data", [image_folder, text_table])


@DATA
@pytest.mark.parametrize("classes", [["cat"], ["cat", "dog"]], ids=["one", "two of three"])
def test_classes_that_never_occur_in_validation(tmp_path, data, classes):
    options = data(tmp_path, train=["cat", "dog", "emu"], val=classes)
    run_dir = fit(tmp_path / "run", options)
    (row,) = assert_finite(run_dir)
    of_class = {name.split("/")[1] for name in row if name.startswith("val_class_accuracy/")}
    assert of_class == set(classes)
    assert (run_dir / "explanations" / "epoch=000.png").is_file()
    assert 0 <= float(row["relevance/concentration"]) <= 1


@DATA
def test_a_class_that_never_occurs_in_training_is_told(tmp_path, data, capsys):
    options = data(tmp_path, train=["cat", "dog"], val=["cat", "emu"])
    with pytest.raises(SystemExit) as exit_:
        fit(tmp_path / "run", options)
    assert exit_.value.code == 2 and not (tmp_path / "run").exists()
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "emu" in message and "unknown" in message and "accepted" in message


@DATA
def test_a_single_class_in_training_is_told(tmp_path, data, capsys):
    with pytest.raises(SystemExit) as exit_:
        fit(tmp_path / "run", data(tmp_path, train=["cat"], val=["cat"]))
    assert exit_.value.code == 2
    assert "accepted: 2 classes or more" in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("mixed", [{}, {"mixup": 0.8, "cutmix": 1.0}], ids=["plain", "mixed"])
def test_batches_of_one_class(mixed):
    """Training with them ends in finite weights, with finite figures."""
    torch.manual_seed(0)
    model = ViTClassifier(
        class_names=["cat", "dog", "emu"],
        input_config={"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3},
        name="vit_tiny_patch16_224",
        model_options={"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2},
        **mixed,
    )
    samples = [{"image": torch.randn(3, 32, 32), "label": i // 8} for i in range(24)]
    loader = torch.utils.data.DataLoader(samples, batch_size=8)
    trainer = Trainer(
        **dict(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False),
        **dict(enable_progress_bar=False, enable_model_summary=False),
    )
    trainer.fit(model, loader, loader)
    assert all(value.isfinite().all() for value in model.state_dict().values())
    figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert all(map(math.isfinite, figures.values()))
    assert {f"val_class_accuracy/{name}" for name in ("cat", "dog", "emu")} <= figures.keys()


@KINDS
def test_batches_of_one_sample(tmp_path, kind):
    sizes = ["data.batch_size=1", "data.train_size=6", "data.val_size=10", "data.test_size=10"]
    run_dir = run(tmp_path / "run", *sizes, "trainer.max_epochs=1", experiment=kind)
    assert_finite(run_dir)
    last = load(run_dir)
    assert last["global_step"] == 6
    assert all(value.isfinite().all() for value in last["state_dict"].values())


# ------------------------------------------------------------------------- one word, one pixel


@pytest.fixture(scope="module")
def digits(trained) -> Path:
    return trained(*ONE_EPOCH)


@pytest.fixture(scope="module")
def reviews(trained) -> Path:
    return trained(*ONE_EPOCH, experiment="reviews")


def explained(run_dir: Path, output: Path, *arguments: str) -> list[dict]:
    """What explanations.json says of the inputs, explained by all methods for all classes."""
    command = ["--checkpoint", str(run_dir), "--method", "all", "--output", str(output)]
    explain.main([*command, "--format", "png,html,npz,json", *arguments])
    return json.loads((output / "explanations.json").read_text())["inputs"]


def assert_relevance(entry: dict, shape: tuple[int, ...]) -> None:
    known = OF_ALL_INPUTS if entry["kind"] == "picture" else OF_TEXTS
    assert set(entry["relevance"]) == set(known)
    for method, maps in entry["relevance"].items():
        expected = (len(entry["classes"]), *shape)
        if relprop.METHODS[method].pixels and entry["kind"] == "picture":
            expected = (len(entry["classes"]), 32, 32)
        assert np.shape(maps) == expected and np.isfinite(np.array(maps, float)).all(), method


TEXTS = ["bored", "I", ".", "\U0001f600", "  .\n", "unheardofword" * 20]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_of_one_word(reviews, tmp_path, text):
    (entry,) = explained(reviews, tmp_path / "out", "--text", text, "--target", "all")
    assert entry["text"] == text and len(entry["words"]) == 1
    assert_relevance(entry, (1,))


def test_texts_of_one_word_among_longer_ones(reviews, tmp_path):
    given = ["--text", "I was never bored by the film.", ".", "bored", "--target", "all"]
    together = explained(reviews, tmp_path / "a", *given)
    alone = explained(reviews, tmp_path / "b", "--text", ".", "--target", "all")
    assert [len(entry["words"]) for entry in together] == [7, 1, 1]
    for entry, words in zip(together, (7, 1, 1), strict=True):
        assert_relevance(entry, (words,))
    ours, theirs = (x["relevance"]["transformer_attribution"] for x in (together[1], alone[0]))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("text", ["", " \n "])
def test_a_text_without_words_is_told(reviews, tmp_path, capsys, text):
    with pytest.raises(SystemExit) as exit_:
        explained(reviews, tmp_path / "out", "--text", text)
    assert exit_.value.code == 2 and not (tmp_path / "out").exists()
    assert "text 1: no text" in capsys.readouterr().err.strip().splitlines()[-1]


def test_training_on_texts_of_one_word(tmp_path):
    with open(tmp_path / "one.csv", "w", newline="") as file:
        table = [(text, label) for text in (".", "good", "bad") for label in ("no", "yes")]
        csv.writer(file).writerows([("text", "label"), *table])
    options = [f"data.{split}={tmp_path / 'one.csv'}" for split in ("train", "val")]
    run_dir = fit(tmp_path / "run", [*text_table(tmp_path), *options])
    (row,) = assert_finite(run_dir)
    assert 0 <= float(row["relevance/concentration"]) <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_a_picture_of_one_pixel(digits, tmp_path, size):
    """Or one wide, or one high."""
    path = tmp_path / "pixel.png"
    Image.new("RGB", size, "red").save(path)
    (entry,) = explained(digits, tmp_path / "out", "--input", str(path), "--target", "top2")
    assert entry["size"] == list(size)
    assert_relevance(entry, (8, 8))
    (picture,) = (tmp_path / "out").glob("*.png")
    width, height = Image.open(picture).size
    assert width <= 3000 and height <= 20_000


def test_a_page_of_one_pixel(open_page):
    result = zero_result("digits")
    maps = {"rollout": np.random.default_rng(0).random((2, 4, 4)).astype(np.float32)}
    region = (-0.1, -0.1, 1.1, 1.1)
    about = {name: value for name, value in vars(result).items() if name != "parts"}
    page = open_page([of_picture(Image.new("RGB", (1, 1)), maps, region, **about)])
    page.locator("canvas").first.hover()
    assert "of 4" in page.inner_text("#tip")
