"""Folders of images: samples, augmentation, masks, and what is said to a user who errs."""

import itertools
import json
import random
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_modules.data import ImageFolderDataModule
from lightning_modules.data.images import folder as image_folder_file
from lightning_modules.data.images.transforms import operations_of
from tests.helpers.samples import assert_same_batches, batches, message_of, random_states, save


@pytest.fixture
def root(tmp_path):
    """Two classes with 4 training and 2 validation images each, 48x40 coloured noise."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for name in ("cat", "dog"):
            for number in range(count):
                pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
                save(tmp_path / split / name / f"{number}.png", pixels)
    return tmp_path


def folder(root, **options) -> ImageFolderDataModule:
    return ImageFolderDataModule(
        **{"root": str(root), "num_workers": 0, "image_size": 32} | options
    )


def test_image_folder_samples(root):
    data = folder(root, batch_size=3)
    assert data.class_names == ["cat", "dog"] and data.pairs_dataset is None
    assert [sample["label"] for sample in data.val_dataset] == [0, 0, 1, 1]
    for loader in (data.train_dataloader(), data.val_dataloader()):
        batch = next(iter(loader))
        assert batch.keys() == {"image", "label"}
        assert batch["image"].shape == (3, 3, 32, 32) and batch["image"].dtype == torch.float32


def test_a_class_may_be_missing_in_val(root):
    for path in (root / "val" / "cat").iterdir():
        path.unlink()
    (root / "val" / "cat").rmdir()
    assert [sample["label"] for sample in folder(root).val_dataset] == [1, 1]


def test_test_falls_back_to_val_and_says_so(root, monkeypatch):
    said = []
    monkeypatch.setattr(image_folder_file, "tell", said.append)
    data = folder(root)
    assert data.test_dataset is data.val_dataset
    assert said == [f"{root / 'test'}: no such folder, so val serves as test"]
    save(root / "test" / "dog" / "a.png", np.zeros((9, 9, 3), np.uint8))
    assert [sample["label"] for sample in folder(root).test_dataset] == [1] and len(said) == 1


def test_augmentation_is_a_function_of_seed_epoch_and_index(root):
    shutil.copy(root / "train" / "dog" / "0.png", root / "train" / "cat" / "3.png")
    options = {"batch_size": 2, "random_erasing": 1.0}
    alone, helped = folder(root, **options), folder(root, **options, num_workers=2)
    loader = helped.train_dataloader()
    epochs = [batches(alone.train_dataloader(), epoch) for epoch in range(2)]
    for epoch in range(2):
        random.seed(epoch), np.random.seed(epoch), torch.manual_seed(epoch)
        assert_same_batches(epochs[epoch], batches(loader, epoch))
    train = alone.train_dataset
    assert_same_batches([train[3]], [train[0, 3]])
    variants = [train[0, 3], train[1, 3], folder(root, **options, seed=1).train_dataset[0, 3]]
    variants.append(train[0, 4])  # the same picture under another index
    for a, b in itertools.combinations(variants, 2):
        assert not torch.equal(a["image"], b["image"])


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "augmix-m3-w3", "original", None])
def test_augmentation_ignores_and_keeps_the_global_generators(root, policy, monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda _: pytest.fail("reseeds the GPU"))
    train = folder(root, auto_augment=policy, random_erasing=1.0).train_dataset
    first = [train[i] for i in range(8)]
    random.seed(1), np.random.seed(1), torch.default_generator.manual_seed(1)
    before = random_states()
    assert_same_batches(first, [train[i] for i in range(8)])
    assert random_states() == before


def test_only_the_augmentation_that_is_asked_for(root):
    save(root / "train" / "cat" / "0.png", np.full((32, 32, 3), (200, 100, 50), np.uint8))
    data = folder(root, auto_augment=None, random_erasing=0.0, hflip=0.0)
    mean, std = (torch.tensor(data.input_config[key]) for key in ("mean", "std"))
    colour = (torch.tensor([200, 100, 50]) / 255 - mean) / std
    for epoch in range(4):
        image = data.train_dataset[epoch, 0]["image"]
        assert torch.allclose(image, colour[:, None, None].expand_as(image), atol=1e-5)


def test_input_config_of_imagenet_and_of_a_timm_model(root):
    imagenet = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "crop_pct": 0.875}
    rest = {"input_size": [3, 32, 32], "interpolation": "bicubic", "crop_mode": "center"}
    half = {"mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.9}
    data = folder(root, transforms_of="vit_base_patch16_224")
    assert folder(root).input_config == imagenet | rest
    assert data.input_config == half | rest
    assert json.loads(json.dumps(data.input_config)) == data.input_config  # plain types
    save(root / "val" / "cat" / "0.png", np.full((50, 40, 3), 255, np.uint8))
    assert torch.equal(data.val_dataset[0]["image"], torch.ones(3, 32, 32))


def test_a_model_that_squashes_pictures_sees_all_of_them(root):
    """As timm's CLIP models of 384 pixels: a bright rim is seen on all sides."""
    pixels = np.zeros((60, 120, 3), np.uint8)
    pixels[:, :12] = pixels[:, -12:] = pixels[:6] = pixels[-6:] = 255
    save(root / "val" / "cat" / "0.png", pixels)
    save(root / "masks" / "val" / "cat" / "0.png", pixels[..., 0])
    sample = folder(root, transforms_of="vit_base_patch16_clip_384.openai_ft_in1k").val_dataset[0]
    bright = sample["image"].mean(dim=0) > 0
    for seen in (bright, sample["mask"][0] > 0 if sample["mask"].ndim == 3 else sample["mask"] > 0):
        assert seen[0].all() and seen[-1].all() and seen[:, 0].all() and seen[:, -1].all()
        assert not seen[6:-6, 6:-6].any()


@pytest.mark.parametrize("size", [(128, 96), (96, 128), (24, 48)])
def test_a_mask_goes_through_the_geometry_of_its_image(root, size):
    width, height = size
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height // 2, width // 4 : width // 2] = 1
    save(root / "val" / "cat" / "0.png", np.stack([mask * 255] * 3, -1))
    save(root / "masks" / "val" / "cat" / "0.png", mask)
    data = folder(root, image_size=42)  # 48 on the shorter side, then the crop
    sample = data.val_dataset[0]
    assert sample["mask"].dtype == torch.bool and sample["mask"].shape == (42, 42)
    assert sample["mask"].any()
    bright = sample["image"][0] * data.input_config["std"][0] + data.input_config["mean"][0] > 0.5
    assert torch.equal(bright, sample["mask"])


def test_a_mask_belongs_to_the_upright_image(root):
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 20:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright: bright below
    save(root / "val" / "cat" / "0.jpg", pixels, exif=exif, quality=100)
    (root / "val" / "cat" / "0.png").unlink()
    mask = np.zeros((40, 20), np.uint8)
    mask[20:] = 255
    save(root / "masks" / "val" / "cat" / "0.png", mask)
    sample = folder(root).val_dataset[0]
    assert sample["mask"][16:].all() and not sample["mask"][:16].any()
    assert torch.equal(sample["image"][0] > 0, sample["mask"])


def test_an_image_without_a_mask_is_told_from_one_whose_mask_is_empty(root):
    save(root / "masks" / "val" / "cat" / "1.png", np.ones((40, 48), np.uint8))
    save(root / "masks" / "val" / "dog" / "0.png", np.zeros((40, 48), np.uint8))
    data = folder(root, batch_size=4, num_workers=1)
    (batch,) = data.val_dataloader()
    assert batch["has_mask"].tolist() == [False, True, True, False]
    assert batch["has_mask"].dtype == batch["mask"].dtype == torch.bool
    assert batch["mask"].flatten(1).any(1).tolist() == [False, True, False, False]
    assert data.train_dataset[0].keys() == {"image", "label"}


def test_every_option_of_the_augmentation_counts(root):
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    save(root / "train" / "cat" / "0.png", pixels)
    off = {"auto_augment": None, "random_erasing": 0.0, "hflip": 0.0, "scale": [1.0, 1.0]}

    def images(**options) -> torch.Tensor:
        train = folder(root, **off | options).train_dataset
        return torch.stack([train[epoch, 0]["image"] for epoch in range(6)])

    plain = images()
    assert torch.equal(plain, plain[:1].expand_as(plain))
    assert torch.equal(images(hflip=1.0), plain.flip(-1))
    for on in ({"auto_augment": "original"}, {"random_erasing": 1.0}, {"scale": [0.1, 0.2]}):
        assert not torch.equal(images(**on), plain), on


@pytest.mark.parametrize(
    "policy", ["rand-m10-inc1", "rand-m19-mmax20-inc1", "rand-m0", "v0", "augmix-m10-mstd0"]
)
def test_a_picture_that_keeps_no_bits_of_its_colours_is_black(root, policy):
    """timm's policies ask for it, the default one in a picture of a thousand; Pillow refuses."""
    picture = Image.open(root / "train" / "cat" / "0.png")
    steps = folder(root, auto_augment=policy).train_transform.transforms
    chosen = [x for step in steps for x in operations_of(step) if x.name.startswith("Posterize")]
    for operation in chosen:
        operation.prob = 1.0
    black = [not np.asarray(operation(picture)).any() for operation in chosen]
    assert any(black) and (all(black) or policy == "v0")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[("batch_size", 0), ("num_workers", -1), ("seed", -1), ("image_size", 0)],
        *[("random_erasing", -0.1), ("random_erasing", 1.1), ("hflip", -0.1), ("hflip", 1.1)],
        *[("scale", [0.0, 1.0]), ("scale", [0.9, 0.1]), ("scale", [0.5, 1.1]), ("scale", [0.5])],
        *[("auto_augment", "wild"), ("auto_augment", "rand-m9-wild3")],
        *[("transforms_of", "vit_wild"), ("transforms_of", "vit_base_patch16_224.wild")],
    ],
)
def test_image_folder_options_out_of_range(root, option, value):
    with pytest.raises(ValueError) as raises:
        folder(root, **{option: value})
    message_of(raises, f"{option}: {json.dumps(value)} is not accepted")


@pytest.mark.parametrize("missing", [".", "train", "val"])
def test_a_missing_folder(root, missing):
    shutil.rmtree(root / missing)
    with pytest.raises(FileNotFoundError) as raises:
        folder(root)
    message_of(raises, f"{root / missing}: no such folder", ".png")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_without_class_folders(root, split):
    for path in sorted((root / split).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    save(root / split / "0.png", np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(FileNotFoundError) as raises:
        folder(root)
    message_of(raises, root / split, "no class folders")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_without_images(root, split):
    for path in (root / split).rglob("*.png"):
        path.rename(path.with_suffix(".txt"))
    (root / split / "cat").mkdir(parents=True, exist_ok=True)
    with pytest.raises(FileNotFoundError) as raises:
        folder(root)
    message_of(raises, root / split, "no images", ".png")


def test_a_training_class_without_images(root):
    (root / "train" / "bird").mkdir()
    with pytest.raises(FileNotFoundError) as raises:
        folder(root)
    message_of(raises, root / "train" / "bird", "no images")


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_class_that_train_lacks(root, split):
    save(root / split / "bird" / "0.png", np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(ValueError) as raises:
        folder(root)
    message_of(raises, root / split / "bird", "unknown class")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_unreadable_image(root, num_workers):
    path = root / "val" / "cat" / "0.png"
    path.write_bytes(path.read_bytes()[:200])  # cut off
    data = folder(root, num_workers=num_workers)
    with pytest.raises(ValueError, match=re.escape(f"{path}: cannot be read (")) as raises:
        list(data.val_dataloader())
    if num_workers == 0:  # a worker sends its whole traceback
        message_of(raises, ".png")


def test_a_mask_of_another_size_than_its_image(root):
    mask_path = root / "masks" / "val" / "cat" / "0.png"
    save(mask_path, np.ones((48, 40), np.uint8))
    with pytest.raises(ValueError) as raises:
        folder(root).val_dataset[0]
    message_of(raises, mask_path, root / "val" / "cat" / "0.png", "40x48", "48x40")
