"""Each task's loss and figures against other implementations, and what it asks of samples."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, f1_score, r2_score

from lightning_modules.tasks import (
    Multiclass,
    Multilabel,
    Regression,
    captions_of,
    make_task,
    precise,
)

NAMES = ["cat", "dog", "bird", "fish"]


def figures(task, batches) -> dict[str, float]:
    metrics = task.metrics()
    for logits, labels in batches:
        metrics.update(task.decided(logits), task.truth(labels))
    return {name: float(value) for name, value in metrics.compute().items()}


@pytest.fixture
def labelled():
    """Two batches of logits [B, 4], some of them all between 0 and 1, and of 0/1 labels."""
    torch.manual_seed(0)
    batches = [torch.rand(20, 4), 3 * torch.randn(30, 4)]
    return [(x, (torch.rand(len(x), 4) < 0.4).float()) for x in batches]


@pytest.mark.parametrize("threshold", [0.5, [0.3, 0.6, 0.5, 0.9]])
def test_figures_of_labels_are_those_of_sklearn(labelled, threshold):
    found = figures(Multilabel(NAMES, threshold=threshold), labelled)
    p = torch.cat([x.double().sigmoid() for x, _ in labelled]).numpy()
    y = torch.cat([labels for _, labels in labelled]).numpy().astype(int)
    decided = (p >= np.broadcast_to(threshold, p.shape)).astype(int)
    assert found["average_precision"] == pytest.approx(average_precision_score(y, p), abs=1e-6)
    assert found["f1"] == pytest.approx(f1_score(y, decided, average="macro"), abs=1e-6)
    assert found["accuracy"] == pytest.approx((decided == y).mean(), abs=1e-6)


def test_a_label_that_a_split_lacks_does_not_lower_its_average_precision(labelled):
    lacking = [(logits, labels * torch.tensor([1, 0, 1, 1])) for logits, labels in labelled]
    p = torch.cat([x.double().sigmoid() for x, _ in lacking]).numpy()[:, [0, 2, 3]]
    y = torch.cat([labels for _, labels in lacking]).numpy().astype(int)[:, [0, 2, 3]]
    found = figures(Multilabel(NAMES), lacking)["average_precision"]
    assert found == pytest.approx(average_precision_score(y, p), abs=1e-6)


def test_the_loss_of_labels_is_their_mean_binary_cross_entropy(labelled):
    logits, labels = labelled[1]
    terms = [
        -math.log(p if label else 1 - p)
        for p, label in zip(
            logits.double().sigmoid().flatten().tolist(), labels.flatten(), strict=True
        )
    ]
    task = Multilabel(NAMES, label_smoothing=0.2)
    assert float(task.loss(logits, labels)) == pytest.approx(np.mean(terms), rel=1e-5)
    # Smoothed: of 0 and 1 it makes 0.1 and 0.9, and only in training.
    smooth = -(
        torch.where(labels > 0, 0.9, 0.1) * logits.sigmoid().log()
        + torch.where(labels > 0, 0.1, 0.9) * (-logits).sigmoid().log()
    ).mean()
    assert float(task.loss(logits, labels, training=True)) == pytest.approx(float(smooth), rel=1e-5)


def test_f1_of_each_label(labelled):
    task = Multilabel(NAMES)
    counts = task.counts()
    for logits, labels in labelled:
        counts.update(task.decided(logits), task.truth(labels))
    decided = torch.cat([x > 0 for x, _ in labelled]).numpy()
    y = torch.cat([labels for _, labels in labelled]).numpy().astype(int)
    expected = f1_score(y, decided, average=None)
    np.testing.assert_allclose(task.by_class(counts.compute()), expected, rtol=1e-6)


def test_low_precision_ranks_and_subtracts_as_float32_does():
    """Of sigmoids in bf16 two values are left between 6 and 10, and 1003.7 becomes 1004."""
    logits = torch.linspace(6, 10, 40).reshape(10, 4).bfloat16()
    labels = (torch.arange(40).reshape(10, 4) % 3 == 0).float()
    task = Multilabel(NAMES)
    found, expected = (figures(task, [(x, labels)]) for x in (precise(logits), logits.float()))
    assert found == expected and found != figures(task, [(logits, labels)])
    near, true = torch.tensor([[1003.0]]).bfloat16(), torch.tensor([[1003.7]])
    assert float(Regression(["x"]).loss(precise(near), true)) == pytest.approx(
        (0.7 - 1) ** 2, rel=1e-3
    )


@pytest.mark.parametrize("numbers", [1, 3])
def test_figures_of_numbers_are_those_of_other_libraries(numbers):
    torch.manual_seed(0)
    y = 4 * torch.randn(50, numbers) + 10
    x = y + torch.randn(50, numbers)
    found = figures(Regression(NAMES[:numbers]), zip(x.split(20), y.split(20), strict=True))
    assert found["rmse"] == pytest.approx(((x - y) ** 2).mean().sqrt().item(), rel=1e-5)
    assert found["r2"] == pytest.approx(r2_score(y, x), rel=1e-4)
    ranks = [spearmanr(x[:, i], y[:, i]).statistic for i in range(numbers)]
    assert found["spearman"] == pytest.approx(np.mean(ranks), abs=1e-5)


def test_one_sample_has_no_correlation():
    found = figures(Regression(["stars"]), [(torch.ones(1, 1), torch.zeros(1, 1))])
    assert found["rmse"] == 1 and math.isnan(found["r2"]) and math.isnan(found["spearman"])


def test_losses_of_numbers():
    x, y = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 1.0]])
    assert float(Regression(NAMES[:2]).loss(x, y)) == 2.5
    assert float(Regression(NAMES[:2], regression_loss="l1").loss(x, y)) == 1.5


# ---------------------------------------------------------------------- what the tracker explains


def test_each_label_that_is_there_is_asked_about_and_the_highest_that_is_not():
    labels = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).float()
    logits = torch.tensor([[1.0, 9, 3, 9], [9, 1, 2, 3], [1, 2, 4, 3], [0, 0, 0, 0]])
    *there, absent = Multilabel(NAMES).asked(labels, logits)
    found = [
        [int(x.target[i]) for x in there if x.of[i]] + [int(absent.target[i])] * int(absent.of[i])
        for i in range(4)
    ]
    assert found == [[1, 3, 2], [0, 3], [2], [0, 1, 2, 3]]
    assert all(question.scored for question in there) and not absent.scored


class Explained:
    def __init__(self, logits, target):
        self.logits, self.target = logits, target


def test_captions_say_what_the_model_gives_and_where_it_is_mistaken():
    logits = torch.tensor([[2.0, -1.0], [-2.0, 3.0]])
    first = Explained(logits, torch.tensor([0, 1]))
    labels = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    ((a, b),) = captions_of([first], ["there: {}"], Multilabel(NAMES[:2]), labels)
    assert (str(a), a.wrong) == ("there: cat, p = 0.88", False)
    assert (str(b), b.wrong) == ("there: dog, p = 0.95", True)
    strict = Multilabel(NAMES[:2], threshold=[0.9, 0.5])
    ((a, none),) = captions_of([first], ["{}"], strict, labels, [torch.tensor([True, False])])
    assert a.wrong and none is None
    ((a, _),) = captions_of([first], ["{}"], Regression(["stars", "price"]), labels)
    assert (str(a), a.wrong) == ("stars, 2 (true 1)", False)
    ((a, b),) = captions_of([first], ["true: {}"], Multiclass(NAMES[:2]), torch.tensor([0, 0]))
    assert (str(a), a.wrong, b.wrong) == ("true: cat, p = 0.95", False, True)


# ------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("task", "names", "options", "message"),
    [
        ("ordinal", NAMES, {}, "task is 'ordinal'; accepted: multiclass, multilabel, regression"),
        ("multiclass", ["a"], {}, "the classes are 'a'; accepted: 2 classes or more"),
        ("multiclass", NAMES, {"threshold": 0.3}, "accepted: threshold with multilabel"),
        ("regression", NAMES, {"label_smoothing": 0.1}, "with multiclass or multilabel"),
        ("multilabel", NAMES, {"regression_loss": "l1"}, "regression_loss with regression"),
        ("multilabel", NAMES, {"threshold": [0.5]}, "above 0 and below 1, or 4 of them"),
        ("multilabel", NAMES, {"threshold": 1.0}, "above 0 and below 1, or 4 of them"),
    ],
)
def test_an_option_of_another_task_is_refused(task, names, options, message):
    with pytest.raises(ValueError, match=message):
        make_task(task, names, options)


def test_options_at_their_defaults_are_no_matter_of_the_task():
    defaults = {"label_smoothing": 0.0, "threshold": 0.5, "regression_loss": "mse"}
    for name in ("multiclass", "multilabel", "regression"):
        assert make_task(name, NAMES, defaults).name == name
