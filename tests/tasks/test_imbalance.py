"""Classes that count differently: losses, samplers, and a run that is stopped and resumed."""

import csv
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from torch.utils.data import TensorDataset
from torchvision.ops import sigmoid_focal_loss

import train
from lightning_modules.data.sampling import EpochSampler
from lightning_modules.data.texts.base import LengthSampler, TextItems
from lightning_modules.tasks import Multiclass, Multilabel, balanced_weights
from lightning_modules.tasks.weighting import weighted_mean
from tests.helpers.processes import finish
from tests.helpers.runs import assert_same_end, run

NAMES = ["a", "b", "c"]
WEIGHTS = [0.2, 1.0, 3.0]


@pytest.fixture
def classed():
    torch.manual_seed(0)
    return torch.randn(40, 3, dtype=torch.float64), torch.randint(3, (40,))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("focal", [0.0, 2.0])
def test_a_classs_loss_by_its_definition(classed, weights, focal):
    """Sum over samples of w (1 - p)^gamma (-log p), by the sum of w."""
    logits, labels = classed
    total = count = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        p = math.exp(row[label]) / sum(map(math.exp, row))
        w = 1.0 if weights is None else weights[label]
        total, count = total - w * (1 - p) ** focal * math.log(p), count + w
    task = Multiclass(NAMES, class_weights=weights, focal=focal)
    assert float(task.loss(logits, labels, training=True)) == pytest.approx(total / count, rel=1e-9)
    assert task.loss(logits, labels) == F.cross_entropy(logits, labels)  # plain in evaluation


def test_weights_of_mixed_samples_are_those_of_their_shares(classed):
    """With shares of 0 and 1, as mixup makes them, it is the loss of labels."""
    logits, labels = classed
    task = Multiclass(NAMES, class_weights=WEIGHTS, focal=1.5)
    shares = F.one_hot(labels, 3).double()
    torch.testing.assert_close(
        task.loss(logits, shares, training=True), task.loss(logits, labels, training=True)
    )


def test_the_focal_loss_of_labels_is_torchvisions(classed):
    logits, _ = classed
    labels = (torch.rand(40, 3) < 0.3).double()
    expected = sigmoid_focal_loss(logits, labels, alpha=-1, gamma=2.0, reduction="mean")
    torch.testing.assert_close(
        Multilabel(NAMES, focal=2.0).loss(logits, labels, training=True), expected
    )
    expected = F.binary_cross_entropy_with_logits(
        logits, labels, pos_weight=torch.tensor(WEIGHTS).double()
    )
    weighted = Multilabel(NAMES, class_weights=WEIGHTS)
    torch.testing.assert_close(weighted.loss(logits, labels, training=True), expected)


def test_balanced_weights_are_sklearns(classed):
    labels = classed[1][:37]
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    np.testing.assert_allclose(balanced_weights(labels, NAMES), expected)
    several = torch.tensor([[1, 0], [1, 0], [1, 1], [0, 0]]).float()
    assert balanced_weights(several, NAMES[:2]) == pytest.approx([1 / 3, 3])
    with pytest.raises(ValueError, match="'b' has 0 of 2 training samples; accepted"):
        balanced_weights(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), NAMES[:2])
    with pytest.raises(ValueError, match="'c' has 0 of 4 training samples; accepted"):
        balanced_weights(torch.tensor([0, 1, 1, 0]), NAMES)


TOGETHER = """
import sys, torch, torch.distributed as dist
from lightning_modules.tasks.weighting import weighted_mean

def loss_of(rank, x, scale):
    half = slice(rank * 3, rank * 3 + 3)
    return weighted_mean(scale * x[half] ** 2, weights[half])

def of_process(rank, folder):
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    scale = torch.ones((), requires_grad=True)
    loss_of(rank, x, scale).backward()
    dist.all_reduce(scale.grad)
    if rank == 0:
        print(float(scale.grad / 2))

x, weights = torch.arange(6.0), torch.tensor([1.0, 1, 1, 9, 9, 2])
if __name__ == "__main__":
    torch.multiprocessing.start_processes(of_process, (sys.argv[1],), 2, start_method="fork")
"""


def test_two_processes_weight_as_one(tmp_path):
    """Weights of 3 in one and of 20 in the other."""
    script = tmp_path / "script.py"
    script.write_text(TOGETHER)
    ended = finish(script, str(tmp_path))
    assert ended.returncode == 0, ended.stderr[-2000:]
    x, weights = torch.arange(6.0), torch.tensor([1.0, 1, 1, 9, 9, 2])
    assert float(ended.stdout) == pytest.approx(float(weighted_mean(x**2, weights)), rel=1e-6)


# ------------------------------------------------------------------------------------- samplers


def test_a_balanced_order_has_each_class_as_often_and_depends_on_the_epoch_alone():
    labels = torch.tensor([0] * 900 + [1] * 90 + [2] * 10)
    weights = 1 / labels.bincount().double()[labels]
    sampler = EpochSampler(TensorDataset(labels), 0, weights)
    counts = labels[sampler.order()].bincount()
    assert counts.sum() == 1000 and ((counts - 333).abs() < 60).all()
    first = sampler.order()
    sampler.set_epoch(1)
    second = sampler.order()
    sampler.set_epoch(0)
    assert first == sampler.order() != second
    halves = [EpochSampler(TensorDataset(labels), 0, weights, 2, rank) for rank in (0, 1)]
    dealt = [x for pair in zip(*(half.order() for half in halves), strict=True) for x in pair]
    assert dealt == first


def test_texts_that_are_drawn_more_often_are_sorted_by_length_too():
    items = [{"text": "a " * (1 + i % 20), "label": int(i < 10)} for i in range(200)]
    labels = torch.tensor([item["label"] for item in items])
    weights = 1 / labels.bincount().double()[labels]
    order = LengthSampler(TextItems(items), 0, 10, weights).order()
    assert 0.35 < labels[order].float().mean() < 0.65
    assert all(
        max(lengths) - min(lengths) <= 3
        for start in range(0, 200, 10)
        for lengths in [[len(items[i]["text"]) // 2 for i in order[start : start + 10]]]
    )


# ----------------------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Texts of which one in eight is of the second class."""
    path = tmp_path_factory.mktemp("texts") / "texts.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(
            [f"it is {'bad' if i % 8 == 0 else 'good'} {i % 5}", "no" if i % 8 == 0 else "yes"]
            for i in range(96)
        )
    return path


IMBALANCED = ("model.class_weights=balanced", "model.focal=2", "data.sampler=balanced")


def test_a_balanced_run_that_is_resumed_ends_as_one_that_was_not(table, tmp_path, capsys):
    """And not with another order: without the sampler, or with other labels to balance."""
    config = tmp_path / "config.yaml"
    config.write_text(
        f"""
run_dir: here
model: {{kind: bert, config: {{model_type: bert, hidden_size: 16, num_hidden_layers: 1,
    num_attention_heads: 2, intermediate_size: 16}}}}
data: {{kind: text_table, train: {table}, val: {table}, batch_size: 16, vocab_size: 60,
    max_length: 16}}
tracker: {{samples: 4}}
trainer: {{max_epochs: 2, log_every_n_steps: 1, accelerator: cpu}}
"""
    )
    arguments = ["--config", str(config), *IMBALANCED]
    train.main([*arguments, f"run_dir={tmp_path / 'whole'}"])
    train.main([*arguments, f"run_dir={tmp_path / 'run'}", "trainer.max_steps=8"])  # of 6 an epoch
    written = table.read_text()
    for said, text, option in (
        ("data.sampler is None; accepted with", written, ["data.sampler=null"]),
        ("a number of its training labels, is", written.replace("no\n", "yes\n", 1), []),
    ):
        table.write_text(text)
        with pytest.raises(SystemExit) as ended:
            train.main(["--resume", str(tmp_path / "run"), "trainer.max_steps=-1", *option])
        assert ended.value.code == 2 and said in capsys.readouterr().err
    table.write_text(written)
    train.main(["--resume", str(tmp_path / "run"), "trainer.max_steps=-1"])
    assert_same_end(tmp_path / "run", tmp_path / "whole")
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    weights = state["hyper_parameters"]["class_weights"]
    assert weights == pytest.approx([96 / (2 * 12), 96 / (2 * 84)])
    with open(tmp_path / "run" / "classes.csv") as file:
        assert [row["samples"] for row in csv.DictReader(file)] == ["12", "84"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["data.sampler=balanced"],
            "data.sampler=balanced: the labels of the training samples are",
        ),
        (["model.class_weights=balanced"], "or weights as numbers"),
        (["task=regression", "data.sampler=balanced"], "are numbers; accepted: null"),
        (["model.focal=0.5"], "focal is 0.5; accepted: 0, or 1 and more"),
        (["model.class_weights=[1.0, 2.0]"], "class_weights is [1.0, 2.0]; accepted: null, balan"),
        (["task=regression", "model.focal=1.0"], "focal is 1.0, and the task is regression"),
    ],
)
def test_what_cannot_be_balanced_ends_in_a_line(given, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        run(tmp_path / "run", *given)
    assert ended.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
