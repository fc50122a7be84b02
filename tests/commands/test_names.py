"""Class names, texts and paths that would be markup, control or a way out of the folder, and are
only names in every output."""

import contextlib
import csv
import io
import json
import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from lightning import Trainer
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugin_util import markdown_to_safe_html

import explain
import train
from lightning_modules.data import DATAMODULES
from lightning_modules.explanations.files import FORMATS, write_all, write_png
from lightning_modules.explanations.results import Result
from lightning_modules.modalities.texts import draw as render_text
from tests.commands import test_page
from tests.helpers.results import as_written, of_picture, of_text
from tests.helpers.runs import TRAINER, run

HOSTILE = {
    "script": "<script>alert(1)</script>",
    "path": "x/../../../evil",  # a name that begins with a dot is hidden
    "newline": "a\nb",
    "direction": "\u202egnp.exe",
    "long": "x" * 10_000,
    "escape": "\x1b[31mred",
    "image": '"><img src=x onerror=alert(1)>',
    "template": "${x}",
    "proto": "__proto__",
    "markup": "[bold]m[/bold]",
}
RUN, OUT = (
    "[bold]r[/bold] \u202e\x1b[31mred <img src=x onerror=alert(1)>".replace("/", "\\"),
    "a\nb\x1b[31m",
)
EACH = pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
WORDS = " ".join(name.replace("\n", " ") for name in HOSTILE.values())
browser = test_page.browser


def on_disk(name: str) -> str:
    """The name as far as a file can have it."""
    return name.replace("/", "\\")[:240]


def readable(name: str, length: int = 40) -> str:
    """What is to be seen of a name wherever it is written: its end, the longest cut."""
    return "".join(c if c.isprintable() else " " for c in name)[-length:].strip()


def assert_printable(text: str) -> None:
    """Lines of nothing that a terminal obeys or that turns the direction of the text."""
    assert {c for c in text if not c.isprintable()} <= {"\n"}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@contextlib.contextmanager
def printed(stream: io.StringIO) -> Iterator[io.StringIO]:
    with contextlib.redirect_stdout(stream):
        yield stream


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """A run on folders with such names, what it printed, and pictures of such names explained."""
    base = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in HOSTILE.values():
            path = base / "data" / split / on_disk(name) / f"{on_disk(name)}.png"
            path.parent.mkdir(parents=True)
            noise = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(noise).save(path)
    options = [
        *("--config=configs/deit_image_folder.yaml", f"data.root={base / 'data'}"),
        *("data.image_size=32", "data.num_workers=0", "data.batch_size=10", "model.mixup=0"),
        *("model.cutmix=0", "model.pretrained=false", "trainer.precision=32-true"),
        "model.model_options={patch_size: 8, embed_dim: 24, depth: 2, num_heads: 2}",
    ]
    fit_and_explain(base, options, ["--input", str(base / "data" / "val"), "--target", "top2"])
    return base


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    """The same of texts with such labels and words, without what a file's name cannot hold."""
    base = tmp_path_factory.mktemp("texts")
    with open(base / "table.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [("text", "label"), *((WORDS, name) for name in HOSTILE.values())]
        )
    files = base / "files"
    files.mkdir()
    for name in HOSTILE.values():
        (files / f"{on_disk(name)}.txt").write_text(name)
    options = [
        *("--config=configs/bert_reviews.yaml", "data.kind=text_table", "data.vocab_size=300"),
        *(f"data.train={base / 'table.csv'}", f"data.val={base / 'table.csv'}"),
        *("model.config.hidden_size=16", "model.config.num_hidden_layers=2"),
    ]
    given = ["--text", *HOSTILE.values(), "--input", str(files), "--target", "top2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(render_text, "SHOWN", len(HOSTILE))
        fit_and_explain(base, options, given)
    return base


def fit_and_explain(base: Path, options: list[str], given: list[str]) -> None:
    """Into ``base``: a folder for the run, one for the explanations, and what was printed."""
    with printed(io.StringIO()) as said:
        train.main([*TRAINER, *options, "trainer.max_epochs=1", f"run_dir={base / 'run'}"])
    (base / "trained.txt").write_text(said.getvalue())
    (base / RUN).symlink_to(base / "run")
    command = ["--checkpoint", str(base / RUN), *given, "--format", "png,html,npz,json"]
    for name, stream in {"explained": io.StringIO(), "terminal": Terminal()}.items():
        with printed(stream) as said, pytest.MonkeyPatch.context() as patch:
            patch.setenv("COLORTERM", "truecolor")
            patch.setenv("TERM", "xterm-256color")
            output = base / name / (OUT if name == "explained" else "out")
            explain.main([*command, "--output", str(output)])
        (base / f"{name}.txt").write_text(said.getvalue(), newline="")


@pytest.fixture(params=["images", "texts"])
def base(request) -> Path:
    return request.getfixturevalue(request.param)


def known(base: Path, name: str) -> str:
    """What the class of a name is called: in the run on images, as its folder."""
    return on_disk(name) if base.name.startswith("images") else name


# ----------------------------------------------------------------------------- files of numbers


def test_json_and_npz_hold_the_names_as_they_are(base):
    out = base / "explained" / OUT
    classes = sorted(known(base, name) for name in HOSTILE.values())
    text = (out / "explanations.json").read_text()
    said = json.loads(text)
    assert said["class_names"] == classes
    assert not re.search(r"[\x00-\x1f]", text)
    names = {entry["name"] for entry in said["inputs"]}
    for name in HOSTILE.values():
        assert any(on_disk(name) in found for found in names)
    arrays = np.load(out / "explanations.npz", allow_pickle=False)
    assert arrays["class_name"].tolist() == classes and set(arrays["name"]) == names


def test_every_class_has_its_own_numbers_in_csv_and_json(base):
    with open(base / "run" / "metrics.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    tested = json.loads((base / "run" / "metrics.json").read_text())
    for split, numbers in (("val", row), ("test", tested)):
        tags = [tag for tag in numbers if tag.startswith(f"{split}_class_accuracy/")]
        assert len(tags) == len(HOSTILE)
        for tag in tags:
            assert_printable(tag)
            assert 0 <= float(numbers[tag]) <= 1


# -------------------------------------------------------------------------------- names of files


@EACH
@pytest.mark.parametrize("kind", ["picture", "text"])
def test_files_stay_in_their_folder(tmp_path, name, kind):
    out = tmp_path / "a" / "b" / "out"
    out.mkdir(parents=True)
    result = made_up(name, kind)
    started = time.perf_counter()
    path = write_png(result, out)
    write_all(*as_written([result]), FORMATS, {"title": name, "model": name, "options": {}}, out)
    assert time.perf_counter() - started < 5
    files = {file for file in tmp_path.rglob("*") if file.is_file()}
    ours = {path} | {out / f"explanations.{ending}" for ending in ("html", "npz", "json")}
    assert files == ours and all(file.parent == out for file in files)
    assert path.name.isascii() and len(path.name) < 255
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*\.png", path.name)
    width, height = Image.open(path).size
    assert width < 1500 and height < 800


def made_up(name: str, kind: str) -> Result:
    about = dict(
        name=name,
        class_names=[name, "b" + name],
        logits=np.log([0.9, 0.1]),
        activation="softmax",
        classes=[0, 1],
        label=1,
    )
    if kind == "text":
        maps = {"rollout": np.array([[0.1, 0.9], [0.2, np.nan]], dtype=np.float32)}
        words = [(0, len(name)), (len(name) + 1, len(name) + 5)]
        return of_text(f"{name} word", words, maps, **about)
    maps = {"rollout": np.random.default_rng(0).random((2, 4, 4)).astype(np.float32)}
    return of_picture(Image.new("RGB", (32, 32), "grey"), maps, **about)


def test_a_call_writes_into_its_folder_alone(base):
    out = base / "explained" / OUT
    assert [path.name for path in (base / "explained").iterdir()] == [OUT]
    said = json.loads((out / "explanations.json").read_text())
    names = [path.name for path in out.iterdir()]
    assert len(names) == len(said["inputs"]) + 3  # the page, npz and json
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,99}", name) for name in names)


def test_a_run_writes_into_its_folder_alone(base):
    inside = [path.relative_to(base / "run").as_posix() for path in (base / "run").rglob("*")]
    assert {name for name in inside if "tfevents" not in name} == {
        *("checkpoints", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "config.yaml"),
        *("explanations", "explanations/epoch=000.png", "hparams.yaml"),
        *("classes.csv", "metrics.csv", "metrics.json"),
    }
    left = {"run", RUN, OUT, "explained", "terminal", "data", "table.csv", "files"}
    left |= {"trained.txt", "explained.txt", "terminal.txt"}
    assert {path.name for path in base.iterdir()} <= left


# ------------------------------------------------------------------------------------ pictures


def test_pictures_do_not_grow_with_the_names(base):
    pictures = [*(base / "explained" / OUT).glob("*.png"), *(base / "run").rglob("*.png")]
    assert len(pictures) > len(HOSTILE)
    for path in pictures:
        width, height = Image.open(path).size
        assert width < 1500 and height < 2500, path


# ------------------------------------------------------------------------------------ terminal


def test_training_prints_no_control_characters(base):
    assert_printable((base / "trained.txt").read_text())


def test_explaining_prints_no_control_characters(base):
    said = (base / "explained.txt").read_text()
    assert_printable(said)
    assert len(said.splitlines()) == 1 + len(
        json.loads((base / "explained" / OUT / "explanations.json").read_text())["inputs"]
    )


def test_a_terminal_gets_no_control_characters_but_ours(base):
    """Colours of words and the progress bar, none of which is the red of a name."""
    said = (base / "terminal.txt").read_text()
    ours = r"\x1b\[(?!31m)[\d;?]*[A-Za-z]"
    assert re.search(ours, said)
    printed = re.sub(ours, "", said)
    assert_printable(printed)
    assert (
        on_disk(HOSTILE["markup"]) if base.name.startswith("images") else HOSTILE["markup"]
    ) in printed


def test_scoring_prints_no_control_characters(images, tmp_path):
    out = tmp_path / OUT
    with printed(io.StringIO()) as said:
        explain.main(
            [
                *("evaluate", "--checkpoint", str(images / RUN), "--protocol", "perturbation"),
                *("--method", "rollout", "--limit", "4", "--output", str(out)),
            ]
        )
    assert_printable(said.getvalue())
    assert (out / "scores.csv").is_file()
    assert str(images) in json.loads((out / "scores.json").read_text())["model"]


def test_a_class_name_that_closes_what_is_not_open(tmp_path):
    """To rich an error."""
    with open(tmp_path / "table.csv", "w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), ("good film", "[/m]"), ("bad film", "b")])
    train.main(
        [
            *(*TRAINER, "--config=configs/bert_reviews.yaml", "data.kind=text_table"),
            *(f"data.train={tmp_path / 'table.csv'}", f"data.val={tmp_path / 'table.csv'}"),
            *("data.vocab_size=60", "model.config.hidden_size=16", "trainer.max_epochs=1"),
            *("tracker=null", f"run_dir={tmp_path / 'run'}"),
        ]
    )
    assert len(json.loads((tmp_path / "run" / "metrics.json").read_text())) >= 3


def test_a_run_that_is_stopped_tells_its_folder_in_printable_characters(
    tmp_path, monkeypatch, capsys
):
    def stopped(trainer, *args, **options):
        path = Path(trainer.default_root_dir)
        path.mkdir(exist_ok=True)
        (path / "config.yaml").touch()
        raise SystemExit

    monkeypatch.setattr(Trainer, "fit", stopped)
    with pytest.raises(SystemExit):
        run(tmp_path / "\u202egnp", "tracker=null")
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "to carry on" in message and "gnp" in message
    assert_printable(message)


def test_what_is_told_of_a_folder_is_printable(images, capsys):
    (images / OUT).symlink_to(images / "data")
    DATAMODULES["image_folder"](root=str(images / OUT), image_size=32)
    (line,) = [x for x in capsys.readouterr().err.split("\n") if "val serves as test" in x]
    assert line.isprintable()


# --------------------------------------------------------------------------------- TensorBoard


@pytest.fixture
def events(base) -> EventAccumulator:
    return EventAccumulator(str(base / "run")).Reload()


def test_tags_are_short_and_plain(events):
    tags = [tag for tags in events.Tags().values() if isinstance(tags, list) for tag in tags]
    for tag in tags:
        assert tag.isprintable() and len(tag) <= 120 and not set(tag) & set('<>"[]\\'), tag[:80]
    of_classes = [tag for tag in tags if tag.startswith("val_class_accuracy/")]
    assert len(of_classes) == len(HOSTILE) and all(tag.count("/") == 1 for tag in of_classes)


class Elements(HTMLParser):
    """The elements of a piece of HTML, its attributes and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements, self.text = set(), ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.elements |= {tag, *(name for name, _ in attributes)}

    def handle_data(self, data):
        self.text += data


def test_tensorboards_text_is_text(texts):
    """Words and captions, as TensorBoard's own Markdown shows them, and as HTML as they are."""
    accumulator = EventAccumulator(str(texts / "run")).Reload()
    (event,) = accumulator.Tensors("explanations/samples/text_summary")
    written = event.tensor_proto.string_val[0].decode()
    assert_printable(written)
    assert Elements(written).elements == set()
    page = Elements(markdown_to_safe_html(written))
    assert page.elements <= {"p", "blockquote", "strong", "em"}
    for name in HOSTILE.values():
        for word in name.split():
            assert readable(word) in page.text  # of the texts
        assert f"true: {readable(render_text.short(name))}" in page.text.replace(
            "true:  ", "true: "
        )


# ------------------------------------------------------------------------------------ the page


@pytest.fixture(scope="module")
def pages(browser, request):
    """The page of a call, opened once, and the troubles that there were."""
    opened = {}

    def open_(base: Path):
        if base not in opened:
            troubles, page = [], browser.new_page()
            page.on("console", lambda m: m.type == "error" and troubles.append(m.text))
            page.on("pageerror", lambda error: troubles.append(str(error)))
            page.on("dialog", lambda d: (troubles.append(d.message), d.dismiss()))
            page.on(
                "request",
                lambda r: r.url.startswith(("file:", "data:")) or troubles.append(r.url),
            )
            page.goto((base / "explained" / OUT / "explanations.html").as_uri())
            page.wait_for_selector("article", timeout=10_000)
            for order in page.locator("#sort option").all_inner_texts():
                page.select_option("#sort", order)
            page.evaluate("dispatchEvent(new Event('beforeprint'))")  # draws what is out of view
            opened[base] = page, troubles
        return opened[base]

    return open_


def test_the_page_runs_nothing_and_has_no_elements_but_its_own(pages, base):
    page, troubles = pages(base)
    assert page.locator("script").count() == 2 and page.locator("article script, b").count() == 0
    sources = page.locator("img").evaluate_all("x => x.map(i => i.getAttribute('src') || '')")
    assert all(source == "" or source.startswith("data:image/") for source in sources)
    assert page.locator("[onerror]").count() == 0
    assert page.evaluate("({}).polluted === undefined && Array.isArray(data.inputs)")
    for title in (page.locator("h1").text_content(), page.title()):
        assert title.split() == ["Why?", *readable(RUN, len(RUN)).split()]
    assert not troubles


@EACH
def test_the_page_shows_a_name_as_text(pages, base, name):
    page, troubles = pages(base)
    inputs = page.locator("h2").all_text_contents()
    endings = {"images": ".png", "texts": ".txt"}
    ending = next(end for kind, end in endings.items() if base.name.startswith(kind))
    shown = readable(on_disk(name))[-30:] + ending
    assert any(text.endswith(shown) for text in inputs)
    used = page.locator("#predicted option").all_text_contents()
    labels = page.locator(".class").all_text_contents()
    if base.name.startswith("images"):  # each lies in the folder of its class
        assert any(readable(known(base, name)) in text for text in labels)
    else:
        for word in name.split():
            words = page.locator(".word").all_text_contents()
            assert any(readable(word) in readable(text) for text in words)
        paragraphs = page.locator(".words")  # a text may turn its own direction, and no other
        isolated = "x => x.every(p => getComputedStyle(p).unicodeBidi == 'isolate')"
        assert paragraphs.count() and paragraphs.evaluate_all(isolated)
    assert not any("\u202e" in text or "\x1b" in text for text in (*inputs, *used, *labels))
    assert not troubles
