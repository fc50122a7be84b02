"""The data sets: their samples, what these depend on, and what is said to a user who errs."""

import itertools
import json
import random
import re
import shutil

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from PIL import Image
from sklearn.datasets import load_digits

from lightning_modules.data import DigitsDataModule, EpochSampler, ImageFolderDataModule
from lightning_modules.data import image_folder as image_folder_file
from lightning_modules.data.digits import DigitScenes, Sources
from lightning_modules.data.image_files import read_image, read_mask

# ------------------------------------------------------------------------------------- loaders


def batches(loader, epoch: int = 0) -> list[dict]:
    if isinstance(loader.sampler, EpochSampler):
        loader.sampler.set_epoch(epoch)
    return list(loader)


def assert_same(left: list[dict], right: list[dict]) -> None:
    assert len(left) == len(right) > 0
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key])) for key in a)


def random_states() -> tuple:
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()


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
        assert_same(seen, batches(data.train_dataloader(), epoch))


def test_digits_do_not_depend_on_the_number_of_workers():
    options = {"batch_size": 5, "train_size": 20, "val_size": 7}
    alone, helped = DigitsDataModule(**options), DigitsDataModule(**options, num_workers=2)
    loader = helped.train_dataloader()
    for epoch in range(2):
        assert_same(batches(alone.train_dataloader(), epoch), batches(loader, epoch))
    assert_same(batches(alone.val_dataloader()), batches(helped.val_dataloader()))


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


# -------------------------------------------------------------------------------------- digits


@pytest.fixture(scope="module")
def digits() -> DigitsDataModule:
    return DigitsDataModule(train_size=30, val_size=30, test_size=30, pairs_size=30)


def boxes_of(dataset, image: torch.Tensor) -> dict[tuple[int, int], np.ndarray]:
    """The four 8x8 tiles, by corner, that make up a scene: its ink explained by nothing else.

    A tile is known by its 64 values, in any order: they must be those of one of the split's own
    digits, so the search fails where a scene has a digit or distractor of another split.
    """
    assert torch.equal(image[0], image[1]) and torch.equal(image[0], image[2])
    scene = image[0].numpy() * 0.5 + 0.5
    known = {np.sort(tile, axis=None).tobytes() for tile in dataset.sources.ink}
    grid = itertools.product(range(0, 25, 4), repeat=2)
    tiles = {(row, column): scene[row : row + 8, column : column + 8] for row, column in grid}
    found = [at for at, tile in tiles.items() if np.sort(tile, axis=None).tobytes() in known]
    for corners in itertools.combinations(found, 4):
        rebuilt, covered = np.zeros((32, 32), np.float32), np.zeros((32, 32), int)
        for row, column in corners:
            rebuilt[row : row + 8, column : column + 8] += tiles[row, column]
            covered[row : row + 8, column : column + 8] += 1
        if covered.max() == 1 and np.array_equal(rebuilt, scene):
            return {corner: tiles[corner] for corner in corners}
    raise AssertionError(f"not four tiles of this split on a grid of 4 without overlap: {found}")


def find_digits(dataset, image: torch.Tensor) -> list[tuple[int, np.ndarray]]:
    """(class, where its ink lies [32, 32]) of every tile that is a digit, not a distractor."""
    classes = {
        tile.tobytes(): int(label)
        for tile, label in zip(dataset.sources.ink, dataset.sources.classes, strict=True)
    }
    found = []
    for (row, column), tile in boxes_of(dataset, image).items():
        if (label := classes.get(tile.tobytes())) is not None:
            mask = np.zeros((32, 32), bool)
            mask[row : row + 8, column : column + 8] = tile > 0
            found.append((label, mask))
    return found


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_scene_is_one_digit_and_three_distractors_of_its_split(digits, split):
    dataset = getattr(digits, f"{split}_dataset")
    for index in range(len(dataset)):
        sample = dataset[index]
        ((label, mask),) = find_digits(dataset, sample["image"])
        assert sample["label"] == label and type(sample["label"]) is int
        assert sample["mask"].dtype == torch.bool
        assert np.array_equal(sample["mask"].numpy(), mask)


def test_a_pair_is_two_digits_of_different_classes_and_two_distractors(digits):
    dataset = digits.pairs_dataset
    for index in range(len(dataset)):
        sample = dataset[index]
        assert sample["labels"].dtype == torch.long and sample["masks"].dtype == torch.bool
        labels = sample["labels"].tolist()
        assert labels[0] != labels[1]
        found = dict(find_digits(dataset, sample["image"]))
        assert found.keys() == set(labels)
        for label, mask in zip(labels, sample["masks"].numpy(), strict=True):
            assert np.array_equal(mask, found[label])


def test_the_tiles_of_a_scene_are_different_digits(digits):
    few = Sources(*(array[:5] for array in digits.train_dataset.sources))
    dataset = DigitScenes(few, size=30, seed=0, split="train")
    for index in range(len(dataset)):
        tiles = boxes_of(dataset, dataset[index]["image"]).values()
        assert len({np.sort(tile, axis=None).tobytes() for tile in tiles}) == 4


def test_no_source_digit_is_in_two_splits(digits):
    sources = [
        digits.train_dataset.sources,
        digits.val_dataset.sources,
        digits.test_dataset.sources,
    ]
    images = [tile.tobytes() for split in sources for tile in split.ink]
    assert len(images) == len(set(images)) == len(load_digits().images)
    assert [len(split.ink) for split in sources] == [1078, 359, 360]
    for split in sources:  # stratified: every class has its tenth
        shares = np.bincount(split.classes) / len(split.classes)
        assert np.allclose(shares, np.bincount(load_digits().target) / 1797, atol=0.005)
    assert digits.pairs_dataset.sources is digits.test_dataset.sources


def test_digits_are_a_function_of_seed_split_epoch_and_index(digits):
    size = {"train_size": 30, "val_size": 30, "test_size": 30, "pairs_size": 30}
    again, other = DigitsDataModule(**size), DigitsDataModule(**size, seed=1)
    for split in ("train", "val", "test", "pairs"):
        ours, same, different = (
            getattr(data, f"{split}_dataset") for data in (digits, again, other)
        )
        assert_same([ours[i] for i in (4, 2, 4)], [same[i] for i in (4, 2, 4)])
        assert not torch.equal(ours[4]["image"], different[4]["image"])
        assert not torch.equal(ours[4]["image"], ours[5]["image"])
    # Also with the same sources, the scenes of another seed or split are others.
    sources = digits.test_dataset.sources
    keys = [(0, "test"), (1, "test"), (0, "val")]
    scenes = [DigitScenes(sources, 30, seed, split)[4]["image"] for seed, split in keys]
    assert len({scene.numpy().tobytes() for scene in scenes}) == 3


def test_every_epoch_of_training_has_fresh_digits(digits):
    train = digits.train_dataset
    assert_same([train[4]], [train[0, 4]])
    scenes = [train[epoch, index]["image"] for epoch in range(3) for index in range(len(train))]
    assert len({scene.numpy().tobytes() for scene in scenes}) == len(scenes)


def test_digits_end_where_they_should(digits):
    assert len(list(digits.val_dataset)) == len(digits.val_dataset) == 30
    with pytest.raises(IndexError, match="0 to 29, not 30"):
        digits.train_dataset[1, 30]


def test_digits_describe_their_inputs(digits):
    image = digits.train_dataset[0]["image"]
    config = json.loads(json.dumps(digits.input_config))
    assert config == digits.input_config and config["input_size"] == list(image.shape)
    assert image.dtype == torch.float32 and (image.min(), image.max()) == (-1, 1)
    assert digits.class_names == list("0123456789")


# -------------------------------------------------------------------------------- image folder


def save(path, pixels, **options) -> None:
    """Writes an image, or an array of one: uint8 [H, W] or [H, W, 3]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)


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
    monkeypatch.setattr(image_folder_file, "rank_zero_info", said.append)
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
        assert_same(epochs[epoch], batches(loader, epoch))
    train = alone.train_dataset
    assert_same([train[3]], [train[0, 3]])
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
    assert_same(first, [train[i] for i in range(8)])
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
    rest = {"input_size": [3, 32, 32], "interpolation": "bicubic"}
    half = {"mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.9}
    data = folder(root, transforms_of="vit_base_patch16_224")
    assert folder(root).input_config == imagenet | rest
    assert data.input_config == half | rest
    assert json.loads(json.dumps(data.input_config)) == data.input_config  # plain types
    save(root / "val" / "cat" / "0.png", np.full((50, 40, 3), 255, np.uint8))
    assert torch.equal(data.val_dataset[0]["image"], torch.ones(3, 32, 32))


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


def test_images_without_a_mask_file_have_an_empty_mask(root):
    save(root / "masks" / "val" / "cat" / "1.png", np.ones((40, 48), np.uint8))
    data = folder(root, batch_size=4)
    (batch,) = data.val_dataloader()
    assert batch["mask"].flatten(1).any(1).tolist() == [False, True, False, False]
    assert "mask" not in data.train_dataset[0]


# --------------------------------------------------------------------------------- image files


@pytest.mark.parametrize(
    ("mode", "suffix", "value", "rgb"),
    [
        ("RGB", "png", (10, 20, 30), (10, 20, 30)),
        ("L", "png", 100, (100, 100, 100)),
        ("1", "png", 1, (255, 255, 255)),
        ("LA", "png", (100, 0), (100, 100, 100)),
        ("RGBA", "png", (10, 20, 30, 0), (10, 20, 30)),
        ("CMYK", "tif", (0, 255, 255, 0), (255, 0, 0)),
        ("I;16", "png", 100 * 257, (100, 100, 100)),
    ],
)
def test_any_mode_becomes_rgb(tmp_path, mode, suffix, value, rgb):
    save(tmp_path / f"a.{suffix}", Image.new(mode, (3, 2), value))
    image = read_image(tmp_path / f"a.{suffix}")
    assert (image.mode, image.size, image.getpixel((2, 1))) == ("RGB", (3, 2), rgb)


def palette_image() -> Image.Image:
    """2x1: index 0, which is red, and index 1, which is black."""
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 0])
    image.putpixel((1, 0), 1)
    return image


def test_a_palette_is_looked_up(tmp_path):
    save(tmp_path / "a.png", palette_image())
    image = read_image(tmp_path / "a.png")
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [(255, 0, 0), (0, 0, 0)]


def test_exif_rotation_is_applied(tmp_path):
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "a.png", pixels, exif=exif)
    image = read_image(tmp_path / "a.png")
    assert image.size == (2, 3)
    assert np.argwhere(np.asarray(image)[..., 0]).tolist() == [[0, 1]]  # top right


@pytest.mark.parametrize(
    ("mode", "value", "is_object"),
    [
        ("L", 1, True),
        ("L", 0, False),
        ("1", 1, True),
        ("I;16", 256, True),
        ("RGB", (0, 0, 1), True),
        ("RGBA", (0, 0, 0, 255), False),
    ],
)
def test_a_mask_is_what_is_not_zero(tmp_path, mode, value, is_object):
    save(tmp_path / "a.png", Image.new(mode, (3, 2), value))
    mask = read_mask(tmp_path / "a.png")
    assert mask.mode == "L" and mask.size == (3, 2)
    assert (np.asarray(mask) == 255 * is_object).all()


def test_a_mask_with_a_palette_holds_indices(tmp_path):
    save(tmp_path / "a.png", palette_image())
    assert np.asarray(read_mask(tmp_path / "a.png")).tolist() == [[0, 255]]


# -------------------------------------------------------------------------------------- errors


def message_of(raises, *parts: object) -> None:
    """The error is one line that has all of the parts and says what is accepted."""
    message = str(raises.value)
    assert "\n" not in message and re.search("accepted: |must be ", message), message
    assert all(str(part) in message for part in parts), message


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[("batch_size", 0), ("num_workers", -1), ("seed", -1), ("seed", 2**32)],
        *[(f"{split}_size", 0) for split in ("train", "val", "test", "pairs")],
    ],
)
def test_digits_options_out_of_range(option, value):
    with pytest.raises(ValueError) as raises:
        DigitsDataModule(**{option: value})
    message_of(raises, f"{option}={value!r}")


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
    message_of(raises, f"{option}={value!r}")


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


def test_a_file_that_is_no_image(tmp_path):
    (tmp_path / "a.png").write_text("hello")
    for read in (read_image, read_mask):
        with pytest.raises(ValueError) as raises:
            read(tmp_path / "a.png")
        message_of(raises, tmp_path / "a.png", "cannot be read")


def test_an_image_of_floats(tmp_path):
    save(tmp_path / "a.tif", Image.new("F", (3, 2), 0.5))
    with pytest.raises(ValueError) as raises:
        read_image(tmp_path / "a.tif")
    message_of(raises, tmp_path / "a.tif", "floating-point")


def test_a_mask_of_another_size_than_its_image(root):
    mask_path = root / "masks" / "val" / "cat" / "0.png"
    save(mask_path, np.ones((48, 40), np.uint8))
    with pytest.raises(ValueError) as raises:
        folder(root).val_dataset[0]
    message_of(raises, mask_path, root / "val" / "cat" / "0.png", "40x48", "48x40")


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
