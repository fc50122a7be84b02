"""How near maps of each precision are to those of float64: photographs, and a model trained."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import transforms

import relprop
from benchmarks.measure import progress
from benchmarks.models import METHODS
from benchmarks.table import Table

SHARED = Path(os.environ.get("SHARED_DATA", Path(__file__).parents[2] / "shared"))
PHOTOS, WEIGHTS = SHARED / "data/cifar10/test", SHARED / "models/vit_small_cifar10.safetensors"


def photographs() -> Tensor:
    """Every fifth one of the test split, 20 a class: [200, 3, 112, 112]."""
    normalize = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    bicubic = transforms.Resize((112, 112), transforms.InterpolationMode.BICUBIC)
    prepare = transforms.Compose([bicubic, transforms.ToTensor(), normalize])
    paths = sorted(PHOTOS.glob("*/*"))[::5]
    return torch.stack([prepare(Image.open(path).convert("RGB")) for path in paths])


def trained() -> nn.Module:
    """The ViT-S that tells their classes."""
    model = timm.create_model("vit_small_patch14_dinov2", img_size=112, num_classes=10).eval()
    model.load_state_dict({k: v.float() for k, v in load_file(WEIGHTS).items()})
    return model


def maps(model: nn.Module, images: Tensor, what: str, **options) -> Tensor:
    """The paper's method for the predicted classes, 20 images at a time."""
    parts = progress(images.split(20), what)
    return torch.cat([relprop.explain(model, part, **options).relevance for part in parts])


def in_dtype(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    return copy.deepcopy(model).to(dtype)


def correlations(maps: Tensor, others: Tensor) -> Tensor:
    """Pearson's, map by map, [B]."""
    pairs = zip(maps.double(), others.double(), strict=True)
    return torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs])


def precision(table: Table) -> None:
    """Of the rules, and of the whole model."""
    if not (PHOTOS.is_dir() and WEIGHTS.is_file()):
        table.section("precision: not measured", f"it takes {PHOTOS} and {WEIGHTS}")
        return
    model, images = trained(), photographs()
    of_rules(table, model, images)
    of_model(table, model, images[::10])


def of_rules(table: Table, model: nn.Module, images: Tensor) -> None:
    """Median, 5th percentile and worst correlation, from the first and from the second block on."""
    exact = in_dtype(model, torch.double)
    table.section(
        f"maps of {len(images)} photographs, ViT-S", "Pearson's r: median, 5th percentile, worst"
    )
    for start in (0, 1):
        found = {
            "float64": maps(exact, images.double(), "float64", start_layer=start),
            "float32": maps(model, images, "float32", start_layer=start),
            "bf16": maps(model, images, "bf16", start_layer=start, precision="bf16"),
        }
        for one, other in (("float32", "float64"), ("bf16", "float64"), ("bf16", "float32")):
            r = correlations(found[one], found[other])
            low = ", ".join(f"{x:.7f}" for x in (r.median(), r.quantile(0.05), r.min()))
            table.row(f"start_layer={start}: {one} and {other}", notes=low)


def of_model(table: Table, model: nn.Module, images: Tensor) -> None:
    """The same for every method, of models that compute in less than float64."""
    exact = in_dtype(model, torch.double)
    table.section(
        f"maps of {len(images)} photographs and the same of float64, ViT-S in",
        "Pearson's r: median, worst",
    )
    for method in METHODS:
        expected = maps(exact, images.double(), f"float64, {method}", method=method)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            name = str(dtype).removeprefix("torch.")
            other = in_dtype(model, dtype)
            found = maps(other, images.to(dtype), f"{name}, {method}", method=method)
            r = correlations(found, expected)
            table.row(f"{name}: {method}", notes=f"{r.nanmedian():.4f}, {r.min():.4f}")
