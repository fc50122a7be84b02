"""What a loader yields depends on seed and epoch alone."""

import itertools

import pytest
from lightning import LightningModule, Trainer

from lightning_modules.data import DigitsDataModule, EpochSampler
from tests.helpers.samples import assert_same_batches, batches, random_states


def test_epoch_sampler_is_a_function_of_seed_and_epoch():
    def order(seed: int, epoch: int) -> list[tuple[int, int]]:
        sampler = EpochSampler(range(50), seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(3, 5) == order(3, 5)
    assert {epoch for epoch, _ in order(3, 5)} == {5}
    orders = [[index for _, index in order(*key)] for key in [(3, 5), (3, 6), (9, 5)]]
    assert all(sorted(indices) == list(range(50)) for indices in orders)
    assert orders[0] != orders[1] and orders[0] != orders[2]


@pytest.mark.parametrize("size", [12, 13])
def test_epoch_sampler_gives_every_replica_its_share(size):
    samplers = [EpochSampler(range(size), 0, num_replicas=3, rank=rank) for rank in range(3)]
    shares = [[index for _, index in sampler] for sampler in samplers]
    assert {len(share) for share in shares} == {len(samplers[0])} == {-(-size // 3)}
    assert set(itertools.chain(*shares)) == set(range(size))
    assert sum(map(len, shares)) - size == -size % 3  # as few repeats as can be


def test_epoch_sampler_keeps_its_epoch_while_it_runs():
    sampler = EpochSampler(range(4), 0)
    running = iter(sampler)
    sampler.set_epoch(7)
    assert {epoch for epoch, _ in running} == {0}


@pytest.mark.filterwarnings("ignore")  # Lightning's, about a model that learns nothing
def test_lightning_sets_the_epoch_of_the_sampler():
    class Record(LightningModule):
        def __init__(self):
            super().__init__()
            self.seen = []

        def training_step(self, batch, _):
            self.seen.append((self.current_epoch, batch))

        def configure_optimizers(self):
            return None

    data = DigitsDataModule(batch_size=4, train_size=8)
    model = Record()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(max_epochs=2, accelerator="cpu", enable_model_summary=False, **quiet).fit(model, data)
    for epoch in range(2):
        seen = [batch for when, batch in model.seen if when == epoch]
        assert_same_batches(seen, batches(data.train_dataloader(), epoch))


def test_digits_do_not_depend_on_the_number_of_workers():
    options = {"batch_size": 5, "train_size": 20, "val_size": 7}
    alone, helped = DigitsDataModule(**options), DigitsDataModule(**options, num_workers=2)
    loader = helped.train_dataloader()
    for epoch in range(2):
        assert_same_batches(batches(alone.train_dataloader(), epoch), batches(loader, epoch))
    assert_same_batches(batches(alone.val_dataloader()), batches(helped.val_dataloader()))


def test_only_a_full_training_batch_is_dropped_for():
    def sizes(train_size: int) -> list[int]:
        data = DigitsDataModule(batch_size=4, train_size=train_size, val_size=6)
        return [len(batch["label"]) for batch in data.train_dataloader()]

    assert sizes(10) == [4, 4] and sizes(3) == [3]
    data = DigitsDataModule(batch_size=4, val_size=6, test_size=5)
    assert [len(batch["label"]) for batch in data.val_dataloader()] == [4, 2]
    assert [len(batch["label"]) for batch in data.test_dataloader()] == [4, 1]


def test_loaders_leave_the_global_generators_alone():
    data = DigitsDataModule(batch_size=4, train_size=8, val_size=8, test_size=8)
    before = random_states()
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        list(loader)
    assert random_states() == before
