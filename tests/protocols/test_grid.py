"""The grid pointing game, against its definition."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

import explain
import relprop
from lightning_modules.data import DATAMODULES
from lightning_modules.models.checkpoints import load_classifier
from lightning_modules.protocols import PROTOCOLS, evaluate, values_of
from lightning_modules.protocols.grid import chosen, mosaic
from lightning_modules.utils.checkpoint_files import find_checkpoint
from tests.helpers.runs import ONE_EPOCH

SMALL = {"train_size": 60, "val_size": 20, "test_size": 64}


@pytest.fixture(scope="module")
def digits(trained) -> Path:
    return trained(*ONE_EPOCH)


class Relabelled(Dataset):
    """Samples whose labels are what a model says of them, but for the first."""

    def __init__(self, samples, labels):
        self.samples, self.labels = samples, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.samples[index] | {"label": (self.labels[index] + (index == 0)) % 10}


@pytest.fixture(scope="module")
def images(digits):
    """A classifier that says each class of some pictures, and data whose labels are what it says.

    It has hardly been trained.
    """
    module = load_classifier(find_checkpoint(digits))
    data = DATAMODULES["digits"](batch_size=3, **SMALL)
    pictures = torch.stack([data.test_dataset[i]["image"] for i in range(64)])
    with torch.no_grad():
        logits = module.backbone(pictures)
        module.backbone.head.bias -= logits.mean(dim=0)
        labels = module.backbone(pictures).argmax(dim=1).tolist()
    assert len(set(labels)) > 4
    data.test_dataset = Relabelled(data.test_dataset, labels)
    return module, data


def score(protocol, method: str, limit: int | None = None) -> float:
    *_, progress = evaluate(protocol, [method], {}, limit)
    return values_of(progress.metrics[method])["energy", None]


def test_the_score_is_that_of_a_loop_over_pixels(images):
    module, data = images
    protocol = PROTOCOLS["grid"](module, data)
    ours = score(protocol, "attnlrp", 4)
    with torch.no_grad():
        pictures = torch.stack([data.test_dataset[i]["image"] for i in range(64)])
        decided = module.backbone(pictures).argmax(dim=1).tolist()
    shares = []
    for pictures in protocol.mosaics.cells[:4]:
        labels = [data.test_dataset[i]["label"] for i in pictures]
        assert labels == [decided[i] for i in pictures] and len(set(labels)) == 4
        picture = torch.empty(3, 32, 32)
        for cell, i in enumerate(pictures):
            small = F.interpolate(
                data.test_dataset[i]["image"][None], (16, 16), mode="bilinear", antialias=True
            )
            top, left = 16 * (cell // 2), 16 * (cell % 2)
            picture[:, top : top + 16, left : left + 16] = small[0]
        for cell, label in enumerate(labels):
            heatmap = module.explain({"image": picture[None]}, label, "attnlrp").heatmap(32)[0]
            within = total = 0.0
            for row in range(32):
                for column in range(32):
                    energy = max(0.0, float(heatmap[row, column]))
                    total += energy
                    within += energy * (row // 16 == cell // 2 and column // 16 == cell % 2)
            shares.append(within / total if total else 0.25)  # no positive relevance
    assert ours == pytest.approx(sum(shares) / 16, abs=1e-5)


def test_a_map_that_is_blind_has_a_quarter(images):
    @relprop.method("everywhere")
    def everywhere(trace, target, options):
        return torch.ones(len(target), 32, 32)

    @relprop.method("nowhere")
    def nowhere(trace, target, options):
        return torch.zeros(len(target), 32, 32)

    try:
        for method in ("everywhere", "nowhere"):
            assert score(PROTOCOLS["grid"](*images), method) == 0.25
    finally:
        del relprop.METHODS["everywhere"], relprop.METHODS["nowhere"]


def test_the_sure_half_of_each_class_is_used_once_before_any_again():
    labels = [i % 5 for i in range(80)]
    right = {i: 1 - i / 100 for i in range(80) if i != 7}  # the first are the surest
    mosaics = chosen(right, labels, 10)
    assert mosaics == chosen(dict(reversed(right.items())), labels, 10)
    assert all(len({labels[i] for i in cells}) == 4 for cells in mosaics)
    flat = [i for cells in mosaics for i in cells]
    assert len(set(flat)) == 40 and 7 not in flat
    assert max(flat) < 43  # 8 of the 16, or of the 15 of class 2
    again = [i for cells in chosen(right, labels, 20) for i in cells]
    assert {again.count(i) for i in set(again)} == {2}
    assert len({tuple(labels[i] for i in cells) for cells in mosaics}) > 5  # cells are drawn


def test_pictures_of_three_classes_are_none():
    assert chosen(dict.fromkeys(range(9), 0.9), [i % 3 for i in range(9)], 4) == []


@pytest.mark.parametrize(("size", "expected"), [("own", (7, 9)), ("double", (14, 18))])
def test_a_mosaic_has_its_pictures_by_rows(size, expected):
    pictures = [torch.full((3, 7, 9), float(value)) for value in range(4)]
    made = mosaic(pictures, size)
    assert made.shape[-2:] == expected
    height, width = expected[0] // 2, expected[1] // 2
    rows = made[:, :height], made[:, height:]
    cells = [part for row in rows for part in (row[..., :width], row[..., width:])]
    for value, cell in enumerate(cells):
        torch.testing.assert_close(cell, torch.full_like(cell, value))


def test_what_cannot_be_done_is_told(digits, tmp_path, monkeypatch, capsys):
    arguments = ["evaluate", "--checkpoint", str(digits), "--protocol", "grid"]
    arguments += ["--output", str(tmp_path), "--method", "rollout", "data.test_size=64"]
    with pytest.raises(SystemExit) as exit_:
        explain.main([*arguments, "protocol.size=double"])
    assert exit_.value.code == 2
    assert "protocol.size double: " in (said := capsys.readouterr().err) and "or own" in said
    monkeypatch.setattr("lightning_modules.protocols.grid.chosen", lambda *args: [])
    with pytest.raises(SystemExit) as exit_:
        explain.main(arguments)
    assert exit_.value.code == 2
    assert "a mosaic is of 4 classes" in capsys.readouterr().err
