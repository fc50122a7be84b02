"""How the class forms from block to block, as the tracker reports it."""

import pytest
import torch
from PIL import Image

from lightning_modules.metrics import Identifiability
from tests.helpers.runs import assert_identical, curve, load, rows, run

OPTIONS = ("trainer.max_epochs=1", "tracker.class_embedding=true")


@pytest.mark.parametrize(
    "experiment, kinds",
    [
        ("digits", ["class_token", "patches", "object", "background"]),
        ("reviews", ["class_token", "patches"]),
    ],
)
def test_curves_and_a_picture_and_training_is_the_same(experiment, kinds, tmp_path):
    tracked = run(tmp_path / "tracked", *OPTIONS, experiment=experiment)
    alone = run(tmp_path / "alone", "trainer.max_epochs=1", "tracker=null", experiment=experiment)
    assert_identical(load(tracked)["state_dict"], load(alone)["state_dict"])
    assert_identical(load(tracked)["optimizer_states"], load(alone)["optimizer_states"])
    (row,) = [row for row in rows(tracked) if row["class_embedding/patches/block_1"]]
    found = {name for name in row if name.startswith("class_embedding/")}
    assert found == {f"class_embedding/{kind}/block_{b}" for kind in kinds for b in (1, 2)}
    for name in found:
        assert 0 < float(row[name]) <= 1
        assert curve(tracked, name)
    picture = Image.open(tracked / "explanations" / "blocks-epoch=000.png")
    assert picture.width > 300 and picture.height > 300


def test_without_being_asked_for_nothing_is_reported(trained):
    folder = trained("trainer.max_epochs=1")
    assert not any("class_embedding" in name for row in rows(folder) for name in row)
    assert not list((folder / "explanations").glob("blocks*"))


@pytest.mark.parametrize(
    "options, said",
    [
        (["task=multilabel"], "the task is multilabel; accepted: the task multiclass"),
        (
            ["model.model_options={class_token: false, global_pool: map}"],
            "tracker: class_embedding: a block does not add its attention",
        ),
    ],
)
def test_what_has_no_class_of_single_tokens_is_refused(options, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, *OPTIONS, *options)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


# ------------------------------------------------------------------------------------ the metric


def slow(logits, labels, patches, own, marks) -> dict[str, list[float]]:
    """Means of means, token by token."""
    B, L, N, C = logits.shape
    kinds = {"class_token": own, "patches": patches, "object": marks}
    kinds["background"] = [
        [p and not m and any(of_m) for p, m in zip(of_p, of_m, strict=True)]
        for of_p, of_m in zip(patches.tolist(), marks.tolist(), strict=True)
    ]
    found: dict[str, list[float]] = {}
    for kind, tokens in kinds.items():
        for b in range(L):
            means, rates, risen = [], [], []
            for i in range(B):
                ranks, ups = [], []
                for n in range(N):
                    if bool(tokens[i][n]):
                        z = logits[i, b, n]
                        ranks.append(sum(float(x) > float(z[labels[i]]) for x in z))
                        ups.append(float(z[labels[i]] > logits[i, b - 1, n, labels[i]]))
                if ranks:
                    means.append(sum(1 - r / C for r in ranks) / len(ranks))
                    rates.append(sum(r == 0 for r in ranks) / len(ranks))
                    risen.append(sum(ups) / len(ups))
            found.setdefault(kind, []).append(sum(means) / len(means))
            found.setdefault(f"{kind}_rate", []).append(sum(rates) / len(rates))
            if kind == "patches" and b > 0:
                found.setdefault("change_rate", []).append(sum(risen) / len(risen))
    return found


def case():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, 7, 4, generator=generator)
    patches = torch.ones(5, 7, dtype=torch.bool)
    patches[:, 0], patches[3, 5:] = False, False  # a class token; a shorter text
    marks = (torch.rand(5, 7, generator=generator) > 0.5) & patches
    marks[2] = False  # of which nothing is known
    own = torch.zeros_like(patches)
    own[:, 0] = True
    return logits, torch.tensor([0, 1, 2, 3, 1]), patches, own, marks


def test_the_metric_is_what_is_counted_token_by_token():
    logits, labels, patches, own, marks = case()
    metric = Identifiability()
    for part in (slice(0, 2), slice(2, 5)):
        metric.update(*(x[part] for x in (logits, labels, patches, own, marks)))
    found, expected = metric.compute(), slow(*case())
    for name, values in found.items():
        values = values[1:] if name == "change_rate" else values
        assert values.tolist() == pytest.approx(expected[name])
    assert found["change_rate"][0].isnan()
    assert list(metric.places) == [1, 2, 3]


def test_without_masks_or_a_class_token_their_scores_are_none():
    logits, labels, patches, *_ = case()
    metric = Identifiability()
    metric.update(logits, labels, patches)
    found = metric.compute()
    none = {name for name, values in found.items() if values.isnan().all()}
    assert none == {"class_token", "object", "background", "object_rate", "background_rate"}
