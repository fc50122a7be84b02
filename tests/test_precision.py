"""The fast mode on photographs, with a model that was trained."""

import copy
import os
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision import transforms

import relprop

SHARED = Path(os.environ.get("SHARED_DATA", Path(__file__).parents[2] / "shared"))
PHOTOS, WEIGHTS = SHARED / "data/cifar10/test", SHARED / "models/vit_small_cifar10.safetensors"


def correlations(maps, others):
    """Pearson's, map by map, [B]."""
    pairs = zip(maps.double(), others.double(), strict=True)
    return torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs])


@pytest.mark.skipif(not (PHOTOS.is_dir() and WEIGHTS.is_file()), reason="no ../shared")
def test_bf16_finds_the_maps_of_float32():
    """200 photographs, 20 a class."""
    model = timm.create_model("vit_small_patch14_dinov2", img_size=112, num_classes=10).eval()
    model.load_state_dict({k: v.float() for k, v in load_file(WEIGHTS).items()})
    normalize = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    bicubic = transforms.Resize((112, 112), transforms.InterpolationMode.BICUBIC)
    prepare = transforms.Compose([bicubic, transforms.ToTensor(), normalize])
    paths = sorted(PHOTOS.glob("*/*"))[::5]
    images = torch.stack([prepare(Image.open(path).convert("RGB")) for path in paths])
    assert len(images) == 200

    def maps(model, images, **options):
        parts = [relprop.explain(model, part, **options).relevance for part in images.split(20)]
        return torch.cat(parts)

    float32, bf16 = maps(model, images), maps(model, images, precision="bf16")
    assert not torch.equal(float32, bf16)
    assert correlations(bf16, float32).min() > 0.99
    # From the first block on, the maps of float32 themselves are less sure: at worst 0.984.
    float64 = maps(copy.deepcopy(model).double(), images.double(), start_layer=1)
    bf16 = maps(model, images, precision="bf16", start_layer=1)
    assert correlations(bf16, float64).median() > 0.998
    assert correlations(bf16, float64).min() > 0.99
