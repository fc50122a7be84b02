"""The order in which texts are trained on, and the loaders that keep it."""

import itertools
import pickle

import lightning
import numpy as np
import pytest
import torch

from lightning_modules.data import (
    ReviewsDataModule,
)
from lightning_modules.data.texts.base import LengthSampler, TextItems
from tests.helpers.samples import SMALL, item


@pytest.fixture(scope="module")
def reviews() -> ReviewsDataModule:
    return ReviewsDataModule(**SMALL)


def sampler(size: int = 1003, batch_size: int = 10, **replica) -> LengthSampler:
    rng = np.random.default_rng(0)
    items = [item("word " * length) for length in rng.integers(1, 100, size)]
    return LengthSampler(TextItems(items), 0, batch_size, **replica)


def lengths(order: list[tuple[int, int]], sampler: LengthSampler) -> torch.Tensor:
    """Words of the texts of every whole batch: [batches, batch_size]."""
    whole = len(order) - len(order) % sampler.batch_size
    values = [sampler.lengths[index] for _, index in order[:whole]]
    return torch.tensor(values, dtype=torch.float).view(-1, sampler.batch_size)


def test_an_epoch_has_every_sample_once_in_batches_of_similar_length():
    order = list(sampler())
    assert sorted(index for _, index in order) == list(range(1003))
    of_batches = lengths(order, sampler())
    spread = (of_batches.amax(dim=1) - of_batches.amin(dim=1)).mean()
    assert spread < 5  # of 99; in a random order it is about 81
    means = of_batches.mean(dim=1)
    assert (means[1:] < means[:-1]).float().mean().item() == pytest.approx(0.5, abs=0.15)


def test_the_partial_batch_is_a_random_one():
    """It is dropped, and that should not hit the long texts each time."""
    values = []
    for epoch in range(60):
        one = sampler()
        one.set_epoch(epoch)
        values += [one.lengths[index] for _, index in list(one)[-3:]]
    assert np.mean(values) == pytest.approx(50, abs=10)


def test_the_order_depends_on_seed_and_epoch_alone():
    first, again, later = sampler(), sampler(), sampler()
    later.set_epoch(1)
    assert list(first) == list(again) == list(first)
    assert {epoch for epoch, _ in later} == {1}
    assert [index for _, index in first] != [index for _, index in later]
    other_seed = LengthSampler(first.dataset, 1, 10)
    assert list(other_seed) != list(first)


def test_replicas_share_an_epoch_and_have_equally_many_batches_of_equal_length():
    ranks = [sampler(num_replicas=3, rank=rank) for rank in range(3)]
    orders = [list(rank) for rank in ranks]
    assert {len(order) for order in orders} == {335}  # 1003 / 3, rounded up
    seen = sorted(index for order in orders for _, index in order)
    assert sorted(set(seen)) == list(range(1003)) and len(seen) == 1005
    means = torch.stack([lengths(order, ranks[0]).mean(dim=1) for order in orders])
    assert (means.amax(dim=0) - means.amin(dim=0)).mean() < 10  # else they wait for the slowest


class Recorder(lightning.LightningModule):
    """Learns nothing; keeps the texts of every training batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.epochs: list[list[list[str]]] = []

    def on_train_epoch_start(self) -> None:
        self.epochs.append([])

    def training_step(self, batch, batch_idx):
        self.epochs[-1].append(batch["text"])
        return self.weight * batch["label"].float().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(data, epochs: int, **options) -> list[list[list[str]]]:
    module = Recorder()
    lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    ).fit(module, datamodule=data)
    return module.epochs


def test_lightning_tells_the_sampler_the_epoch(reviews):
    first, second = fit(reviews, 2)
    assert first != second
    assert len(first) == len(second) == 60 // 8  # without the partial batch
    expected = LengthSampler(reviews.train_dataset, 0, 8)
    for epoch, batches in enumerate((first, second)):
        expected.set_epoch(epoch)
        texts = [reviews.train_dataset[key]["text"] for key in expected]
        assert list(itertools.chain(*batches)) == texts[:56]


def test_overfit_batches_repeats_the_same_texts(reviews):
    first, second = fit(reviews, 2, overfit_batches=2)
    assert first == second and len(first) == 2


def test_workers_change_nothing(reviews):
    with_workers = ReviewsDataModule(**SMALL, num_workers=2)
    for ours, theirs in (
        (reviews.train_dataloader(), with_workers.train_dataloader()),
        (reviews.val_dataloader(), with_workers.val_dataloader()),
    ):
        state = torch.get_rng_state()
        for batch, other in zip(ours, theirs, strict=True):
            assert batch["text"] == other["text"] and batch["words"] == other["words"]
            assert torch.equal(batch["input_ids"], other["input_ids"])
        assert torch.equal(state, torch.get_rng_state())


def test_val_and_test_come_in_order(reviews):
    for loader, dataset in (
        (reviews.val_dataloader(), reviews.val_dataset),
        (reviews.test_dataloader(), reviews.test_dataset),
    ):
        texts = itertools.chain(*(batch["text"] for batch in loader))
        assert list(texts) == [entry["text"] for entry in dataset.items]


def test_a_data_module_can_be_pickled(reviews):
    copy = pickle.loads(pickle.dumps(reviews))
    assert copy.val_dataset[3] == reviews.val_dataset[3]
