"""Scenes of digits, recognised again in the pixels."""

import itertools
import json

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from lightning_modules.data import DigitsDataModule
from lightning_modules.data.images.digits import DigitScenes, Sources
from tests.helpers.samples import assert_same_batches, message_of


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
        assert_same_batches([ours[i] for i in (4, 2, 4)], [same[i] for i in (4, 2, 4)])
        assert not torch.equal(ours[4]["image"], different[4]["image"])
        assert not torch.equal(ours[4]["image"], ours[5]["image"])
    # Also with the same sources, the scenes of another seed or split are others.
    sources = digits.test_dataset.sources
    keys = [(0, "test"), (1, "test"), (0, "val")]
    scenes = [DigitScenes(sources, 30, seed, split)[4]["image"] for seed, split in keys]
    assert len({scene.numpy().tobytes() for scene in scenes}) == 3


def test_every_epoch_of_training_has_fresh_digits(digits):
    train = digits.train_dataset
    assert_same_batches([train[4]], [train[0, 4]])
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
    message_of(raises, f"{option}: {value} is not accepted")
