"""explain.py from the outside: inputs of every kind, outputs, and what a user is told."""

import io
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForSequenceClassification

import explain
from lightning_modules.data import DATAMODULES
from lightning_modules.data.images.transforms import make_eval_transform
from lightning_modules.data.texts.tokenizers import tokenizer_from_config
from lightning_modules.explanations.batches import label_of
from lightning_modules.explanations.inputs import Input
from lightning_modules.explanations.targets import Targets
from lightning_modules.modalities.images.draw import draw_alone, draw_over
from lightning_modules.modalities.images.part import seen_region
from lightning_modules.models.checkpoints import load_classifier
from lightning_modules.tasks import Multiclass, Multilabel, Regression
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.names import slug
from tests.helpers.results import of_text
from tests.helpers.runs import ONE_EPOCH


@pytest.fixture(scope="module")
def digits(trained) -> Path:
    return trained(*ONE_EPOCH)


@pytest.fixture(scope="module")
def reviews(trained) -> Path:
    return trained(*ONE_EPOCH, experiment="reviews")


def scene(width=48, height=32) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.fixture
def pictures(tmp_path) -> Path:
    """The same picture in every guise, a class folder, and a file that is no picture."""
    folder = tmp_path / "pictures"
    (folder / "7").mkdir(parents=True)
    picture = scene()
    picture.save(folder / "rgb.png")
    picture.convert("L").save(folder / "grey.png")
    picture.convert("RGBA").save(folder / "alpha.png")
    picture.convert("P").save(folder / "palette.png")
    picture.convert("CMYK").save(folder / "cmyk.tif")
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by 90 degrees to be upright
    picture.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.png", exif=turned)
    picture.save(folder / "7" / "of-class.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def command(*arguments, output: Path, formats="json") -> dict | None:
    """explanations.json of a call, if it is to be written."""
    explain.main([*map(str, arguments), "--output", str(output), "--format", formats])
    path = output / "explanations.json"
    return json.loads(path.read_text()) if path.is_file() else None


def error_of(capsys, *arguments, code=2) -> str:
    """The one line of a call that fails."""
    with pytest.raises(SystemExit) as exit_:
        explain.main(list(map(str, arguments)))
    assert exit_.value.code == code
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("explain.py: ")
    return message


# ---------------------------------------------------------------------------------- pictures


def test_pictures_of_every_mode_in_a_folder(digits, pictures, tmp_path):
    said = command("--checkpoint", digits, "--input", pictures, output=tmp_path / "out")
    by_name = {Path(entry["name"]).name: entry for entry in said["inputs"]}
    assert set(by_name) == {
        *("rgb.png", "grey.png", "alpha.png", "palette.png", "cmyk.tif", "turned.png"),
        "of-class.png",
    }
    upright, turned = (  # alone: at two places of a batch sums are rounded otherwise
        command("--checkpoint", digits, "--input", pictures / x, output=tmp_path / x)["inputs"][0]
        for x in ("rgb.png", "turned.png")
    )
    assert upright == turned | {"name": upright["name"]}
    assert by_name["of-class.png"]["label"] == 7 and by_name["rgb.png"]["label"] is None
    assert np.shape(by_name["rgb.png"]["relevance"]["transformer_attribution"]) == (1, 8, 8)
    assert by_name["rgb.png"]["axes"] == ["class", "row", "column"]


def test_the_command_gives_what_python_gives(digits, pictures, tmp_path):
    path = pictures / "rgb.png"
    arguments = ("--target", "3", "predicted", "--method", "transformer_attribution", "lrp")
    said = command(
        *("--checkpoint", digits, "--input", path, *arguments, "start_layer=1"),
        output=tmp_path / "out",
    )
    (entry,) = said["inputs"]
    model = load_classifier(digits / "checkpoints" / "best.ckpt")
    batch = model.prepare([scene()])
    for method in ("transformer_attribution", "lrp"):
        trace = model.record(batch)
        explained = model.explain_classes(trace, batch, [3, None], method, start_layer=1)
        for place, ours in enumerate(explained):
            theirs = torch.tensor(entry["relevance"][method][place])
            assert entry["classes"][place] == int(ours.target)
            torch.testing.assert_close(theirs.flatten(), ours.relevance[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(
        torch.tensor(entry["probability"]), ours.logits[0].softmax(0), rtol=1e-5, atol=1e-7
    )


def test_one_class_rather_than_another(digits, pictures, tmp_path):
    """Where logits are near, what speaks for both says nothing of the choice."""
    path, out = pictures / "rgb.png", tmp_path / "out"
    options = ("--target", "3", "--method", "attnlrp", "level=input", "eps=0.0")
    said = command(
        "--checkpoint", digits, "--input", path, *options, "--against", "8",
        output=out, formats="png,html,json",
    )  # fmt: skip
    assert (
        said["against"] == "8" and "Why rather than 8? " in (out / "explanations.html").read_text()
    )
    found = torch.tensor(said["inputs"][0]["relevance"]["attnlrp"][0])
    three, eight = (
        torch.tensor(command(
            "--checkpoint", digits, "--input", path, "--target", target, *options[2:],
            output=tmp_path / target,
        )["inputs"][0]["relevance"]["attnlrp"][0])
        for target in ("3", "8")
    )  # fmt: skip
    # A gradient with corrections is linear in what it starts with.
    torch.testing.assert_close(found, three - eight, rtol=1e-4, atol=1e-5)


def test_a_class_rather_than_itself_is_refused(digits, pictures, tmp_path, capsys):
    inputs = ("--checkpoint", digits, "--input", pictures / "rgb.png")
    with pytest.raises(SystemExit) as exit_:
        command(*inputs, "--target", "3", "--against", "3", output=tmp_path / "out")
    assert exit_.value.code == 2
    assert "--against 3: it is the class explained; accepted: another" in capsys.readouterr().err
    message = error_of(capsys, *inputs, "--against", "eleven")
    assert "--against eleven: no such class; accepted: " in message


def test_many_inputs_in_batches_are_each_as_alone(digits, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(20):
        scene(32 + i, 40).save(folder / f"{i:02d}.png")
    together = command("--checkpoint", digits, "--input", folder, output=tmp_path / "a")
    alone = command("--checkpoint", digits, "--input", folder / "13.png", output=tmp_path / "b")
    ours, theirs = together["inputs"][13], alone["inputs"][0]
    assert ours["name"] == theirs["name"] and len(together["inputs"]) == 20
    np.testing.assert_allclose(
        ours["relevance"]["transformer_attribution"],
        theirs["relevance"]["transformer_attribution"],
        rtol=1e-3,
    )


def test_an_unreadable_file_is_told_at_the_end_and_the_others_are_done(
    digits, pictures, tmp_path, capsys
):
    (pictures / "broken.png").write_bytes((pictures / "rgb.png").read_bytes()[:200])
    out = tmp_path / "out"
    message = error_of(
        *(capsys, "--checkpoint", digits, "--input", f"{pictures}/*.png", "--output", out),
        *("--format", "json"),
        code=1,
    )
    assert "broken.png" in message
    assert len(json.loads((out / "explanations.json").read_text())["inputs"]) == 5


def test_pictures_and_numbers_are_written(digits, pictures, tmp_path):
    out = tmp_path / "out"
    arguments = ("--target", "top3", "--method", "rollout", "lrp")
    command(
        *("--checkpoint", digits, "--input", pictures / "rgb.png", *arguments),
        output=out,
        formats="png,html,npz,json",
    )
    (png,) = out.glob("*.png")
    assert Image.open(png).width > 7 * 180  # the picture, and twice three classes
    arrays = np.load(out / "explanations.npz")
    for name in arrays.files:
        if not name.startswith("axes/"):
            assert arrays[name].ndim == len(arrays[f"axes/{name}"]), name
    assert arrays["relevance/lrp"].shape == (1, 3, 32, 32)
    assert arrays["relevance/rollout"].shape == (1, 3, 8, 8)
    assert list(arrays["axes/relevance/lrp"]) == ["input", "explained", "row", "column"]
    assert not list(out.glob(".*"))


@pytest.mark.parametrize("mode", ["center", "squash"])
def test_the_region_is_what_the_crop_keeps(mode):
    """A picture whose every pixel is its own place, sent through the model's own transform."""
    config = {"input_size": [3, 32, 32], "mean": [0.0] * 3, "std": [1.0] * 3}
    config |= {"interpolation": "bilinear", "crop_pct": 0.8, "crop_mode": mode}
    width, height = 160, 240
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    picture = Image.fromarray(np.stack([x, y, 0 * x], axis=-1).astype(np.uint8))
    seen = make_eval_transform(config)(picture) * 255
    left, top, right, bottom = seen_region(picture.size, config)
    step = (right - left) / 32  # of a pixel of the input, in pixels of the picture
    assert seen[0, :, 0].mean() == pytest.approx(left + step / 2 - 0.5, abs=0.6)
    assert seen[0, :, -1].mean() == pytest.approx(right - step / 2 - 0.5, abs=0.6)
    step = (bottom - top) / 32
    assert seen[1, 0].mean() == pytest.approx(top + step / 2 - 0.5, abs=0.6)
    assert seen[1, -1].mean() == pytest.approx(bottom - step / 2 - 0.5, abs=0.6)


def test_nothing_is_drawn_where_the_model_has_not_looked():
    picture = np.full((20, 40, 3), 0.5, dtype=np.float32)
    relevance = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    over = draw_over(picture, relevance, [10, 0, 30, 20], signed=False)
    alone = draw_alone(relevance, [10, 0, 30, 20], (40, 20), signed=False)
    assert (over[:, :10] == 0.5).all() and (over[:, 30:] == 0.5).all()
    assert (alone[:, :10] == 1).all() and (alone[:, 30:] == 1).all()
    assert alone[0, 25].sum() > 2 and alone[15, 15].sum() < 0.1
    assert over[3, 27, 0] > over[17, 12, 0]  # brightest where the relevance is


def test_signed_maps_are_white_at_zero_and_unlike_on_either_side():
    relevance = torch.tensor([[-2.0, 0.0, 1.0]])
    against, zero, in_favour = draw_alone(relevance, [0, 0, 3, 1], (3, 1), signed=True)[0]
    assert (zero > 0.95).all()
    assert against[2] > against[0] and in_favour[0] > in_favour[2]  # blue, and red
    assert in_favour.min() > against.min()  # half as strong


# -------------------------------------------------------------------------------------- texts


def test_texts_from_everywhere(reviews, tmp_path, monkeypatch, capsys):
    file = tmp_path / "a.txt"
    file.write_text("I was bored by the plot.")
    monkeypatch.setattr(sys, "stdin", io.StringIO("It was a delight.\n\nIt was a mess.\n"))
    said = command(
        *("--checkpoint", reviews, "--input", file, "--text", "Never boring.", "-"),
        *("--target", "all"),
        output=tmp_path / "out",
        formats="png,json",
    )
    assert [entry["text"] for entry in said["inputs"]] == [
        *("I was bored by the plot.", "Never boring.", "It was a delight.", "It was a mess."),
    ]
    first = said["inputs"][0]
    assert [first["text"][start:end] for start, end in first["words"]] == first["text"].split()
    assert np.shape(first["relevance"]["transformer_attribution"]) == (2, 6)
    assert len(list((tmp_path / "out").glob("*.png"))) == 4
    assert "predicted" in capsys.readouterr().out


def test_words_that_were_cut_off_are_null(reviews, tmp_path):
    said = command(*("--checkpoint", reviews, "--text", "good " * 100), output=tmp_path / "out")
    scores = said["inputs"][0]["relevance"]["transformer_attribution"][0]
    assert len(scores) == 100 and scores[-1] is None and scores[0] is not None


def test_an_option_after_a_text_is_no_text(reviews, tmp_path):
    said = command(
        "--checkpoint", reviews, "--text", "eps=3 is good.", "x=3", "start_layer=1", output=tmp_path
    )
    assert [entry["text"] for entry in said["inputs"]] == ["eps=3 is good.", "x=3"]
    assert said["options"] == {"start_layer": 1}


def test_coloured_words_in_a_terminal(reviews, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    command("--checkpoint", reviews, "--text", "[bold]Never[/bold] <b>dull</b>", output=tmp_path)
    printed = capsys.readouterr().out
    assert "[bold]Never[/bold]" in printed
    assert re.search(r"\x1b\[\d+;48;2;[\d;]+m\[bold\]Never", printed)  # on a colour of its own


# -------------------------------------------------------------------- models from elsewhere


def test_a_timm_model_with_a_file_of_weights(pictures, tmp_path):
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=4, depth=12)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    said = command(
        *("--timm", f"vit_tiny_patch16_224@{tmp_path / 'weights.safetensors'}"),
        *("--input", pictures / "rgb.png", "--target", "2"),
        output=tmp_path / "out",
    )
    (entry,) = said["inputs"]
    assert np.shape(entry["relevance"]["transformer_attribution"]) == (1, 4, 4)
    assert said["class_names"] == ["0", "1", "2", "3"] and entry["classes"] == [2]


def test_a_hugging_face_model_in_a_folder(tmp_path):
    data = DATAMODULES["reviews"](train_size=60, val_size=10, test_size=10, vocab_size=300)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    labels = {"id2label": {0: "bad", 1: "good", 2: "so-so"}, "label2id": {"bad": 0}}
    config = AutoConfig.for_model("bert", vocab_size=300, intermediate_size=32, **sizes, **labels)
    folder = tmp_path / "model"
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer_from_config(data.input_config).save_pretrained(folder)
    said = command(
        *("--hf", folder, "--text", "It was good.", "--target", "so-so"), output=tmp_path / "out"
    )
    assert said["class_names"] == ["bad", "good", "so-so"]
    assert said["inputs"][0]["classes"] == [2]


def test_a_model_without_a_trained_head_is_refused(tmp_path, capsys):
    data = DATAMODULES["reviews"](train_size=60, val_size=10, test_size=10, vocab_size=300)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model("bert", vocab_size=300, intermediate_size=32, **sizes)
    AutoModelForSequenceClassification.from_config(config).base_model.save_pretrained(tmp_path)
    tokenizer_from_config(data.input_config).save_pretrained(tmp_path)
    message = error_of(capsys, "--hf", tmp_path, "--text", "good")
    assert "no trained head" in message


# ----------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], ["no input", "--input"]),
        (["--input", "nowhere.png"], ["nowhere.png", "a folder", "glob"]),
        (["--input", "configs"], ["configs", "no image"]),
        (["--text", "hello"], ["--text", "image classifier"]),
        (["--input", "PICTURE", "--target", "cat"], ["cat", "0 to 9", "predicted"]),
        (["--input", "PICTURE", "--target", "10"], ["10", "0 to 9"]),
        (["--input", "PICTURE", "--method", "lpr"], ["lpr", "lrp"]),
        (["--input", "PICTURE", "--format", "pgn"], ["pgn", "png, html, npz, json"]),
        (["--input", "PICTURE", "--device", "toaster"], ["toaster", "auto, cpu"]),
        (["--input", "PICTURE", "start_layer=7"], ["start_layer", "7", "0 to 1"]),
        (["start_layr=1", "--input", "PICTURE"], ["start_layr", "start_layer"]),
        (["--input", "PICTURE", "--frobnicate"], ["--frobnicate"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    digits, pictures, tmp_path, arguments, named, capsys
):
    arguments = [str(pictures / "rgb.png") if a == "PICTURE" else a for a in arguments]
    message = error_of(*(capsys, *arguments, "--checkpoint", digits, "--output", tmp_path / "out"))
    for word in named:
        assert word in message


def test_a_picture_for_a_text_classifier(reviews, pictures, capsys):
    message = error_of(capsys, "--checkpoint", reviews, "--input", pictures / "rgb.png")
    assert "rgb.png" in message and "texts" in message


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("content", ["hostile", "truncated", "foreign", "text"])
def test_a_checkpoint_is_data(digits, pictures, tmp_path, capsys, content):
    path, trap = tmp_path / "some.ckpt", tmp_path / "trap"
    good = (digits / "checkpoints" / "best.ckpt").read_bytes()
    if content == "hostile":
        torch.save({"kind": "vit", "state_dict": Hostile(str(trap))}, path)
    elif content == "foreign":
        torch.save({"state_dict": {}}, path)
    else:
        path.write_bytes(good[: len(good) // 2] if content == "truncated" else b"hello")
    before = path.read_bytes()
    message = error_of(capsys, "--checkpoint", path, "--input", pictures / "rgb.png")
    assert str(path) in message and "accepted: a checkpoint" in message
    assert not trap.exists() and path.read_bytes() == before


def test_targets_by_name_index_and_rank():
    logits = torch.tensor([[0.1, 3.0, 2.0], [5.0, 1.0, 2.0]])
    names = ["cat", "dog", "0"]
    assert Targets(["predicted"], Multiclass(names)).of(logits) == [[1], [0]]
    assert Targets(["top2"], Multiclass(names)).of(logits) == [[1, 2], [0, 2]]
    assert Targets(["top9"], Multiclass(names)).of(logits) == [[1, 2, 0], [0, 2, 1]]
    assert Targets(["cat", "predicted"], Multiclass(names)).of(logits) == [[0, 1], [0]]
    assert Targets(["0", "1"], Multiclass(names)).of(logits) == [
        [2, 1],
        [2, 1],
    ]  # a name before an index
    with pytest.raises(InputError, match="accepted: dog"):
        Targets(["dgo"], Multiclass(names))


def test_present_are_the_labels_that_the_model_finds():
    logits = torch.tensor([[0.1, 3.0, 2.0], [-5.0, -1.0, 0.2], [-3.0, -2.0, -4.0]])
    names = ["cat", "dog", "bird"]
    assert Targets(["present"], Multilabel(names)).of(logits) == [[1, 2, 0], [2], [1]]
    higher = Multilabel(names, threshold=[0.6, 0.5, 0.9])
    assert Targets(["present", "bird"], higher).of(logits) == [[1, 2], [2], [1, 2]]
    with pytest.raises(InputError, match="present: no such class; accepted: cat, dog, bird"):
        Targets(["present"], Multiclass(names))


def test_targets_among_numbers_are_in_their_own_order():
    logits = torch.tensor([[0.1, 3.0, 2.0], [5.0, 1.0, 2.0]])
    names = ["joy", "anger", "love"]
    for wanted in ("predicted", "all"):
        assert Targets([wanted], Regression(names)).of(logits) == [[0, 1, 2]] * 2
    assert Targets(["love", "0"], Regression(names)).of(logits) == [[2, 0]] * 2
    with pytest.raises(InputError, match="top2: no such class; accepted: joy, anger, love, 0 to 2"):
        Targets(["top2"], Regression(names))


def test_a_name_of_several_classes_is_no_target():
    """As ImageNet's crane, the bird and the machine."""
    with pytest.raises(InputError, match="--target crane: 2 classes; accepted: 0, 2"):
        Targets(["crane"], Multiclass(["crane", "cat", "crane"]))
    assert Targets(["2"], Multiclass(["crane", "cat", "crane"])).of(torch.zeros(1, 3)) == [[2]]
    item = Input("a.png", {"image": Path("crane") / "a.png"})
    assert label_of(item, ["crane", "cat"]) == 0
    assert label_of(item, ["crane", "cat", "crane"]) is None


@pytest.mark.parametrize(
    "name", ["<script>", "../../etc/passwd", "a\nb", "\u202eevil", "x" * 10_000, "", "."]
)
def test_hostile_names(name):
    file = slug(name)
    assert len(file) < 80 and file.isascii() and "/" not in file and not file.startswith(".")
    assert slug(name + "!") != file
    result = of_text(
        f"{name} b c",
        [(0, len(name)), (len(name) + 1, len(name) + 2), (len(name) + 3, len(name) + 4)],
        {"lrp": np.ones((2, 3), dtype=np.float32)},
        name=name,
        class_names=[name or "a", "b"],
        logits=np.log([0.9, 0.1]),
        activation="softmax",
        classes=[0, 1],
        label=1,
    )
    assert result.picture().shape[2] == 3


@pytest.mark.parametrize("within", ["", "sub/folder"])
@pytest.mark.parametrize("of", ["--input a.png", "evaluate --protocol perturbation"])
def test_a_file_as_the_output_folder_is_refused_first(tmp_path, capsys, within, of):
    file = tmp_path / "a.png"
    file.write_text("kept")
    given = [*of.split(), "--timm", "no_model", "--output", file / within]
    line = error_of(capsys, *given)
    assert line == f"explain.py: --output {file / within}: {file} is a file; accepted: a folder"
    assert file.read_text() == "kept"


def test_where_an_input_is_of_the_class_compared_with_the_others_are_explained(
    digits, pictures, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(Targets, "of", lambda self, logits: [[3], [8]])
    paths = [pictures / "rgb.png", tmp_path / "black.png"]
    Image.new("RGB", (40, 40)).save(paths[1])
    options = ("--checkpoint", digits, "--method", "attnlrp", "--input", *paths)
    with pytest.raises(SystemExit) as exit_:
        command(*options, "--against", "8", output=tmp_path / "out")
    printed = capsys.readouterr()
    assert exit_.value.code == 1 and "1 of 2 explained" in printed.out
    assert "black.png: --against" in printed.err.strip().splitlines()[-1]
