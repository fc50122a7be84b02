"""What runs for long takes no more memory than what runs for half as long. pytest tests/soak"""

import gc
import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from lightning import Callback

import relprop
from lightning_modules import experiment as running
from tests.helpers.methods import OF_ALL_INPUTS
from tests.helpers.runs import run

EXPLANATIONS, EPOCHS = 2000, 50


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def growth_of_second_half(memory: list[int]) -> float:
    """Of the line through it, as a share of its mean."""
    half = np.array(memory[len(memory) // 2 :], dtype=float)
    slope = np.polyfit(np.arange(len(half)), half, 1)[0]
    return slope * len(half) / half.mean()


def test_memory_stays_flat_over_explanations():
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=4, num_classes=5)
    images = torch.randn(4, 3, 64, 64)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    random = torch.get_rng_state()
    memory = []
    for i in range(EXPLANATIONS):
        method = OF_ALL_INPUTS[i % len(OF_ALL_INPUTS)]
        relprop.explain(model, images, i % 5, method, max_memory=None if i % 3 else 0)
        memory.append(resident())
    growth = growth_of_second_half(memory)
    print(f"{EXPLANATIONS} explanations: {growth:+.3%} over the second half")
    assert growth < 0.01
    gc.collect()
    graphs = [x for x in gc.get_objects() if isinstance(x, torch.Tensor) and x.grad_fn is not None]
    assert not graphs
    assert all(p.grad is None for p in model.parameters())
    assert [p.requires_grad for p in model.parameters()] == flags and model.training
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())


@pytest.mark.parametrize("experiment", ["digits", "reviews"])
def test_memory_stays_flat_over_tracked_epochs(tmp_path, monkeypatch, experiment):
    memory = []

    class Watch(Callback):
        def on_train_epoch_end(self, trainer, module):
            memory.append(resident())

    chosen = running.callbacks
    monkeypatch.setattr(running, "callbacks", lambda config: [*chosen(config), Watch()])
    run(tmp_path, f"trainer.max_epochs={EPOCHS}", experiment=experiment)
    growth = growth_of_second_half(memory)
    print(f"{EPOCHS} tracked epochs, {experiment}: {growth:+.3%} over the second half")
    assert len(memory) == EPOCHS and growth < 0.01
