"""The tracker leaves training in other people's projects as it is, to the bit."""

import logging
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from lightning_modules.callbacks import RelevanceTracker
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
