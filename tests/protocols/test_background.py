"""Does the model hang on the background: of models that read one thing alone, by hand."""

import json
import random

import numpy as np
import pytest
import torch
from lightning import Trainer
from torch.utils.data import Dataset

import explain
from lightning_modules.backgrounds import Backgrounds
from lightning_modules.callbacks import BackgroundFigures
from lightning_modules.callbacks.watch import Watch, with_notes
from lightning_modules.data.base import ImageDataModule
from lightning_modules.modalities import Images
from lightning_modules.modalities.drawing import (
    HEADING,
    MARGIN,
    PANEL,
    TITLE,
    explanation_grid,
)
from lightning_modules.models.explaining import ExplainingModule
from lightning_modules.protocols import PROTOCOLS, evaluate, values_of
from lightning_modules.tasks import Caption, make_task
from lightning_modules.utils.errors import InputError
from tests.helpers.processes import finish_two
from tests.helpers.runs import ONE_EPOCH

CLASSES, SIZE = 4, 23
OBJECT, MARKER = (8, 8), (1, 1)  # a pixel of each
CONFIG = {"input_size": [3, 16, 16], "mean": [0.0] * 3, "std": [1.0] * 3, "crop_pct": 1.0}


class Marked(Dataset):
    """Pictures of a square as light as its class, and a marker as light as any class."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.classes, self.markers = torch.randint(CLASSES, (2, SIZE), generator=generator).tolist()

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> dict:
        image, mask = torch.full((3, 16, 16), -1.0), torch.zeros(16, 16, dtype=torch.bool)
        image[:, :3, :3] = self.markers[index]
        image[:, 6:10, 6:10] = self.classes[index]
        mask[6:10, 6:10] = True
        return {"image": image, "label": self.classes[index], "mask": mask}


class MarkedData(ImageDataModule):
    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.class_names = list("abcd")
        self.val_dataset = self.test_dataset = Marked()


class Reader(ExplainingModule):
    """Reads the class off one pixel."""

    def __init__(self, pixel: tuple[int, int], task: str = "multiclass") -> None:
        super().__init__()
        self.pixel, self.task = pixel, make_task(task, list("abcd"), {})

    @property
    def sources(self):
        return {"image": Images("image", CONFIG)}

    def forward(self, batch):
        row, column = self.pixel
        levels = batch["image"][:, 0, row, column]
        return -(levels[:, None] - torch.arange(CLASSES)).abs()

    def validation_step(self, batch, batch_idx):
        return

    test_step = validation_step


def others() -> list[int]:
    """The partner of each sample, said slowly."""
    classes, half = Marked().classes, SIZE // 2
    found = []
    for place in range(SIZE):
        steps = [(place + step) % SIZE for step in range(half, half + 8)]
        found.append(next((x for x in steps if classes[x] != classes[place]), steps[0]))
    return found


def by_hand(pixel, places=range(SIZE)) -> dict[str, float]:
    """The figures of a reader of the marker, or of the object."""
    dataset, other = Marked(), others()
    if pixel == OBJECT:
        return {"background_effect": 0, "background_control": 0, "object_only": 1}
    markers, classes = dataset.markers, dataset.classes
    return {
        "background_effect": np.mean([markers[other[i]] != markers[i] for i in places]),
        "background_control": 0,
        "object_only": np.mean([markers[other[i]] == classes[i] for i in places]),
    }


def logged(pixel, split="validate", batch_size=5, task="multiclass", **options) -> dict:
    """What a trainer has in its metrics."""
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[BackgroundFigures()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        **options,
    )
    getattr(trainer, split)(
        Reader(pixel, task), datamodule=MarkedData(batch_size=batch_size), verbose=False
    )
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def near(figures: dict[str, float], split: str) -> dict:
    return {f"{split}/{name}": pytest.approx(x, abs=1e-6) for name, x in figures.items()}


@pytest.mark.parametrize("pixel", [OBJECT, MARKER], ids=["object", "marker"])
def test_who_reads_the_marker_alone_hangs_on_it_and_who_reads_the_object_does_not(pixel):
    expected = by_hand(pixel)
    assert (expected["background_effect"] > 0.5) == (pixel == MARKER)
    assert logged(pixel) == near(expected, "val")
    assert logged(pixel, "test", batch_size=64) == near(expected, "test")  # of any batches


def test_no_more_samples_are_asked_about_than_are_validated():
    places = [i * SIZE // 10 for i in range(10)]
    assert logged(MARKER, limit_val_batches=2) == near(by_hand(MARKER, places), "val")


def test_a_number_does_not_change_and_is_left_out():
    assert logged(OBJECT, task="regression") == {}


def test_samples_with_an_empty_mask_do_not_count(monkeypatch):
    class Half(Marked):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            sample["mask"] &= index % 2 == 0
            return sample

    monkeypatch.setattr(f"{__name__}.Marked", Half)
    assert logged(MARKER) == near(by_hand(MARKER, range(0, SIZE, 2)), "val")


def test_nothing_is_drawn_and_no_flag_is_changed():
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    module, data = Reader(MARKER).train(), MarkedData()
    backgrounds = Backgrounds.of(module, data, data.val_dataset)
    batch = backgrounds.batch([0, 1])
    (made, _), (again, _) = (backgrounds.on_others(batch, [0, 1]) for _ in range(2))
    backgrounds.decided(batch, made, predict=module)
    assert torch.equal(made["image"], again["image"]) and module.training
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[:2]
    assert torch.equal(torch.get_rng_state(), before[2])


ONE_OF_TWO = """
import json
from tests.protocols.test_background import MARKER, logged

print(json.dumps(logged(MARKER, batch_size=4, devices=2, strategy="ddp")))
"""


def test_two_processes_have_the_figures_of_one(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(ONE_OF_TWO)
    ended = finish_two(script)
    assert [process.returncode for process in ended] == [0, 0], ended
    for process in ended:
        assert json.loads(process.stdout.splitlines()[-1]) == near(by_hand(MARKER), "val")


# ------------------------------------------------------------------------ protocol and tracker


def test_the_protocol_scores_the_model_once():
    protocol = PROTOCOLS["background"](Reader(MARKER), MarkedData(batch_size=4))
    assert protocol.scored(["a", "b"], ["b", "a"]) == ["model"]
    *_, progress = evaluate(protocol, ["model"], {})
    values = {name: value for (name, _), value in values_of(progress.metrics["model"]).items()}
    same = np.mean(np.equal(Marked().markers, Marked().classes))
    assert values == pytest.approx(by_hand(MARKER) | {"accuracy": same}, abs=1e-6)


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize("experiment", ["digits", "reviews"])
def test_explain_writes_its_table_and_picture(trained, experiment, tmp_path, capsys):
    run_dir = trained(*ONE_EPOCH, experiment=experiment)
    arguments = ["evaluate", "--checkpoint", str(run_dir), "--protocol", "background"]
    explain.main([*arguments, "--limit", "12", "--output", str(tmp_path)])
    assert "own, as control" in capsys.readouterr().out
    written = json.loads((tmp_path / "scores.json").read_text())
    assert written["methods"] == ["model"] and written["samples"] == 12
    scores = {score["name"]: score for score in written["scores"]}
    assert [*scores] == ["background_effect", "background_control", "object_only", "accuracy"]
    assert all(0 <= x["low"] <= x["value"] <= x["high"] <= 1 for x in scores.values())
    assert (tmp_path / "scores.png").stat().st_size > 5000
    figures = json.loads((run_dir / "metrics.json").read_text())
    assert {"test/background_effect", "test/background_control", "test/object_only"} <= {*figures}
    with pytest.raises(SystemExit) as ended:
        explain.main([*arguments, "--method", "rollout", "--output", str(tmp_path)])
    assert ended.value.code == 2
    said = "--method rollout: --protocol background scores the model, and no method; accepted: no"
    assert said in capsys.readouterr().err


def test_what_has_no_background_is_refused_in_one_line():
    with pytest.raises(InputError, match="task of the model is regression; accepted: multiclass"):
        PROTOCOLS["background"](Reader(MARKER, "regression"), MarkedData())
    data = MarkedData()
    data.test_dataset = [{"image": torch.zeros(3, 16, 16), "label": 0}]
    with pytest.raises(InputError, match="fewer than two test samples have a mask or a rationale"):
        PROTOCOLS["background"](Reader(MARKER), data).samples()


def test_watched_samples_say_what_is_decided_on_another_background(monkeypatch):
    dataset, other = Marked(), others()
    watch = Watch(Reader(MARKER), MarkedData(), {"method": "rollout"}, 0)
    notes = {}
    monkeypatch.setattr(Watch, "report_on", lambda self, batch, of: notes.update(of))
    watch.samples([7, 2, 5])
    for place, index in enumerate([7, 2, 5]):
        before, now = (dataset.markers[i] for i in (index, other[index]))
        assert notes[place] == f"background: {'holds' if now == before else 'now ' + 'abcd'[now]}"


def test_a_note_stands_above_the_input_and_in_the_last_line_of_a_text():
    true, predicted = Caption("true: a", "p = 0.10"), Caption("predicted: b", "p = 0.90")
    plain = [[true, None], [predicted, predicted]]
    found = with_notes(plain, {0: "background: holds"})
    lines = [[str(x) for x in of_samples] for of_samples in found]
    assert lines == [
        ["true: a, p = 0.10", "None"],
        ["predicted: b, p = 0.90, background: holds", "predicted: b, p = 0.90"],
    ]
    picture = np.zeros((8, 8, 3))
    before, after = (
        explanation_grid([picture] * 2, [[picture] * 2] * 2, captions, "heading")
        for captions in (plain, found)
    )
    rows, columns = (before != after).any(axis=2).nonzero()
    assert len(rows) and rows.max() < HEADING + TITLE and columns.max() < MARGIN + PANEL
