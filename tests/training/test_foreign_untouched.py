"""The tracker leaves training in other people's projects as it is, to the bit."""

import logging
import random

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    TensorDataset,
)

from lightning_modules.callbacks import RelevanceTracker
from lightning_modules.callbacks.sources import copied, draw
from tests.helpers import strangers
from tests.helpers.runs import assert_identical
from tests.helpers.strangers import fit, loader, made, timm_vit, watched_batch

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def everything(module, trainer) -> dict:
    """What training leaves, and the numbers that would be drawn next."""
    metrics = {k: v for k, v in trainer.callback_metrics.items() if "relevance" not in k}
    return {
        "weights": module.state_dict(),
        "gradients": {name: p.grad for name, p in module.named_parameters()},
        "optimizer": trainer.optimizers[0].state_dict(),
        "metrics": metrics,
        "training": {name: m.training for name, m in module.named_modules()},
        "trained": {name: p.requires_grad for name, p in module.named_parameters()},
        "hooks": {n: len(m._forward_hooks) for n, m in module.named_modules()},
        "drawn": [torch.rand(3), np.random.rand(3).tolist(), random.random()],
    }


@pytest.mark.parametrize("source", ["the validation set", "a batch", "a loader"])
@pytest.mark.parametrize("project", strangers.PROJECTS)
def test_training_is_the_same_to_the_bit(tmp_path, project, source):
    """With dropout, transforms that draw random numbers, and a loader that shuffles."""

    def trained(*callbacks):
        module = made(project)
        part = next(m for m in module.modules() if isinstance(m, torch.nn.LayerNorm))
        part.requires_grad_(False).eval()  # as somebody who freezes it
        part.register_forward_hook(lambda module, args, output: output * 1.01)
        return everything(module, fit(tmp_path, module, *callbacks))

    sources = {"a batch": watched_batch(project), "a loader": loader(project, generator=None)}
    tracker = RelevanceTracker(sources.get(source), samples=3)
    assert_identical(trained(tracker), trained())
    assert tracker.last_maps.shape[0] == 3 and tracker.last_maps.any()


def test_a_loader_with_a_generator_draws_what_it_would_have_drawn():
    class Endless(IterableDataset):
        def __iter__(self):
            return iter(strangers.Squares())

    def drawn(track):
        torch.manual_seed(0)
        watched = DataLoader(Endless(), batch_size=4, generator=torch.Generator().manual_seed(1))
        tracker = RelevanceTracker(watched, samples=3)
        fit(None, made(), *[tracker] * track, max_epochs=1)
        return watched.generator.get_state(), tracker

    (with_it, tracker), (without, _) = drawn(True), drawn(False)
    assert torch.equal(with_it, without)
    assert len(tracker.last_maps) == 3


def test_a_compiled_model_stays_compiled(tmp_path):
    module = made(model=torch.compile(timm_vit(), backend="eager"))
    tracker = RelevanceTracker(watched_batch())
    fit(tmp_path, module, tracker, max_epochs=1)
    assert isinstance(module.model, torch._dynamo.eval_frame.OptimizedModule)
    assert tracker.last_maps.any()


# ------------------------------------------------- sources that keep a state of their own


class Noise:
    """A transform with a generator of its own."""

    def __init__(self):
        self.generator = np.random.default_rng(0)

    def __call__(self, x):
        return x + torch.from_numpy(self.generator.normal(size=x.shape)).float()


class Noisy(strangers.Squares):
    def __init__(self, transform):
        super().__init__()
        self.transform = transform

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return self.transform(x), y


class OnePass(IterableDataset):
    """A stream that goes on where the last iterator has stopped."""

    def __init__(self, size=12):
        self.numbers, self.size = iter(range(10**6)), size

    def __iter__(self):
        for _, number in zip(range(self.size), self.numbers, strict=False):
            yield strangers.Squares()[number]


class Collating:
    """A collator with a generator of its own."""

    def __init__(self):
        self.noise = Noise()

    def collate(self, items):
        x, y = torch.utils.data.default_collate(items)
        return self.noise(x), y


def both_of(dataset, **options):
    """Loaders of the same data for training and validation."""
    made = DataLoader(dataset, batch_size=4, **options)
    return made, made


def sharing_a_transform():
    transform = Noise()
    return tuple(DataLoader(Noisy(transform), batch_size=4) for _ in range(2))


def persistent():
    return both_of(OnePass(), num_workers=1, persistent_workers=True)


LOADERS = {
    "a generator in the data set": lambda: both_of(Noisy(Noise())),
    "a transform that training shares": sharing_a_transform,
    "a collator": lambda: both_of(strangers.Squares(), collate_fn=Collating().collate),
    "a stream": lambda: both_of(OnePass()),
    "a stream in workers that stay": persistent,
}


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("told", [True, False])
def test_the_state_of_a_source_is_that_of_training_alone(tmp_path, kind, told):
    def trained(track):
        module, (training, validation) = made(), LOADERS[kind]()
        tracker = RelevanceTracker(training if told else None, samples=3)
        strangers.trainer(tmp_path, *[tracker] * track).fit(module, training, validation)
        return module.state_dict()

    assert_identical(trained(True), trained(False))


def test_a_copy_shares_samples_in_memory_and_what_it_is_told_to():
    images, order = torch.zeros(50, 3, 16, 16), torch.arange(9000)
    data, owner = TensorDataset(images), Noise()
    data.owner, data.order, data.store = owner, order, Noise()
    data.store.images = images + 1
    (made,) = copied([data], shared=[owner])
    assert made.tensors[0] is images and made.owner is owner
    assert made.store is not data.store and made.store.images is data.store.images
    assert made.order is not order and torch.equal(made.order, order)


def test_a_loader_that_collates_nothing_gives_what_it_would_give_first():
    """Its sampler yields whole batches; what it draws is not drawn from the loader's own."""
    data = TensorDataset(torch.arange(8.0))
    sampler = BatchSampler(RandomSampler(data, generator=torch.Generator()), 4, False)
    watched = DataLoader(data, batch_size=None, sampler=sampler)
    drawn = [draw(watched, 3, seed=0) for _ in range(2)]
    assert_identical(drawn[0], drawn[1])
    assert_identical(drawn[0], next(iter(watched)))
