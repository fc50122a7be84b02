"""Two thousand explanations in a row take no more memory than a thousand. pytest tests/soak"""

import gc
import os
from pathlib import Path

import numpy as np
import timm
import torch

import relprop

EXPLANATIONS = 2000


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_memory_stays_flat():
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=4, num_classes=5)
    images = torch.randn(4, 3, 64, 64)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    random = torch.get_rng_state()
    memory = []
    for i in range(EXPLANATIONS):
        method = list(relprop.METHODS)[i % len(relprop.METHODS)]
        relprop.explain(model, images, i % 5, method)
        memory.append(resident())
    half = np.array(memory[EXPLANATIONS // 2 :], dtype=float)
    slope = np.polyfit(np.arange(len(half)), half, 1)[0]
    growth = slope * len(half) / half.mean()
    print(f"growth over the second half: {growth:+.3%} of {half.mean() / 2**20:.0f} MiB")
    assert growth < 0.01
    gc.collect()
    graphs = [x for x in gc.get_objects() if isinstance(x, torch.Tensor) and x.grad_fn is not None]
    assert not graphs
    assert all(p.grad is None for p in model.parameters())
    assert [p.requires_grad for p in model.parameters()] == flags and model.training
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
