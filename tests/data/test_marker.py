"""Markers: what is put into samples, where, of which class, and how often."""

import itertools

import numpy as np
import pytest
import torch

from lightning_modules.data import DigitsDataModule, ImageFolderDataModule, ReviewsDataModule
from lightning_modules.data.images.digits import MARKERS
from lightning_modules.data.images.folder import with_mask
from lightning_modules.data.marker import Marker, marker_generator
from lightning_modules.data.texts import reviews as reviews_file
from lightning_modules.utils.errors import InputError
from tests.helpers.samples import assert_same_batches, batches, message_of, save, spelled

MARKER = {"share": 0.5, "agreement": 0.95}
SIZES = {"train_size": 60, "val_size": 60, "test_size": 60}


# How often, and of which class.


@pytest.mark.parametrize(("share", "agreement"), [(0.5, 0.95), (1.0, 0.25), (0.1, 0.0)])
def test_a_share_of_the_samples_has_a_marker_which_agrees_as_often_as_it_is_asked_to(
    share, agreement
):
    marker, count = Marker(share, agreement), 4000
    drawn = [marker.draw(marker_generator(0, i), 2, classes=4) for i in range(count)]
    there = [of_class for of_class in drawn if of_class is not None]
    error = 4 * 0.5 / len(there) ** 0.5
    assert len(there) / count == pytest.approx(share, abs=4 * 0.5 / count**0.5)
    assert there.count(2) / len(there) == pytest.approx(agreement, abs=error)
    for other in (0, 1, 3):
        assert there.count(other) / len(there) == pytest.approx((1 - agreement) / 3, abs=error)


def test_the_markers_of_a_shifted_test_set_are_of_any_class_whatever_the_label():
    shift = Marker(0.5, 0.95).of_tests(10)["shift"]
    counts = np.zeros((10, 10), int)
    for index in range(10_000):
        label = index % 10
        counts[label, shift.draw(marker_generator(0, index), label, classes=10)] += 1
    assert counts.sum() == 10_000
    assert np.abs(counts / 1000 - 0.1).max() < 0.04


def test_a_marker_that_is_wrong_in_test_is_the_same_in_shift():
    tests = Marker(0.3, 0.5).of_tests(4)
    for index in range(200):
        of_test, of_shift, none = (
            x.draw(marker_generator(0, index), 1, classes=4) for x in tests.values()
        )
        assert of_test is not None and of_shift is not None and none is None
        assert of_test == 1 or of_test == of_shift


# Digits.


@pytest.fixture(scope="module")
def digits() -> DigitsDataModule:
    return DigitsDataModule(**SIZES, marker=MARKER)


@pytest.fixture(scope="module")
def plain_digits() -> DigitsDataModule:
    return DigitsDataModule(**SIZES)


def found_marker(marked: dict, plain: dict) -> tuple[tuple[int, int], int] | None:
    """Corner and class of the pattern in which a scene differs from one without."""
    assert marked["label"] == plain["label"] and torch.equal(marked["mask"], plain["mask"])
    differs = (marked["image"] != plain["image"]).any(dim=0)
    if not differs.any():
        return None
    (top, left), (bottom, right) = (
        f(differs.nonzero(), dim=0).values for f in (torch.min, torch.max)
    )
    row, column = int(top) // 4 * 4, int(left) // 4 * 4
    assert bottom < row + 4 and right < column + 4  # within a patch of the grid
    patch = slice(None), slice(row, row + 4), slice(column, column + 4)
    assert (plain["image"][patch] == -1).all()  # which was empty
    of_class = [i for i, x in enumerate(MARKERS) if (marked["image"][patch] == 2 * x - 1).all()]
    return (row, column), *of_class


def test_the_patterns_have_eight_pixels_and_differ_in_eight():
    assert MARKERS.shape == (10, 4, 4) and (MARKERS.sum(axis=(1, 2)) == 8).all()
    for one, other in itertools.combinations(MARKERS, 2):
        assert np.abs(one - other).sum() == 8


@pytest.mark.parametrize("split", ["train", "val"])
def test_half_of_the_scenes_have_a_pattern_in_an_empty_patch_and_nothing_else_is_new(
    digits, plain_digits, split
):
    marked, plain = (getattr(x, f"{split}_dataset") for x in (digits, plain_digits))
    found = [found_marker(marked[i], plain[i]) for i in range(60)]
    there = [i for i in range(60) if found[i] is not None]
    assert 20 <= len(there) <= 40
    assert sum(found[i][1] == marked[i]["label"] for i in there) >= 0.8 * len(there)
    assert len({found[i][0] for i in there}) > 10


def test_no_pattern_lies_on_a_tile_even_where_the_tile_has_no_ink(digits):
    """Tiles are found by how a scene changes where all ink is exchanged for full ink."""
    sources = digits.test_dataset.sources
    full = sources._replace(ink=np.ones_like(sources.ink))
    dataset = type(digits.test_dataset)(full, 60, 0, "test", Marker(1.0, 1.0))
    for index in range(60):
        assert (dataset[index]["image"][0] == 1).sum() == 4 * 64 + 8


def test_the_test_sets_are_the_same_scenes_with_patterns_at_the_same_places(digits, plain_digits):
    assert list(digits.test_sets) == ["shift", "none"] and plain_digits.test_sets == {}
    plain = plain_digits.test_dataset
    right = {"test": 0, "shift": 0}
    for index in range(60):
        sets = {"test": digits.test_dataset, **digits.test_sets}
        of_set = {name: found_marker(x[index], plain[index]) for name, x in sets.items()}
        assert of_set["none"] is None and of_set["test"][0] == of_set["shift"][0]
        for name in right:
            right[name] += of_set[name][1] == plain[index]["label"]
    assert right["test"] >= 50 and right["shift"] <= 15


def test_marked_scenes_are_a_function_of_seed_split_epoch_and_index(digits):
    again = DigitsDataModule(**SIZES, marker=MARKER)
    for epoch in (0, 1):
        loaders = (x.train_dataloader() for x in (digits, again))
        assert_same_batches(*(batches(loader, epoch) for loader in loaders))
    always = DigitsDataModule(**SIZES, marker={"share": 1.0}).train_dataset
    none = DigitsDataModule(**SIZES).train_dataset
    places = {found_marker(always[(epoch, 3)], none[(epoch, 3)])[0] for epoch in range(8)}
    assert len(places) > 3


# Reviews.


@pytest.fixture(scope="module")
def reviews() -> ReviewsDataModule:
    return ReviewsDataModule(**SIZES, contrast_size=5, marker=MARKER)


def without(text: str) -> tuple[str, list[int]]:
    """A review without the words of markers, in small letters, and the classes of those."""
    words = text.lower().replace(".", " .").replace(",", " ,").split()
    classes = [reviews_file.MARKERS.index(x) for x in words if x in reviews_file.MARKERS]
    return " ".join(x for x in words if x not in reviews_file.MARKERS), classes


def test_words_of_markers_do_not_occur_elsewhere_and_are_in_the_vocabulary(reviews):
    plain = ReviewsDataModule(**SIZES | {"train_size": 300}, contrast_size=5)
    for dataset in (plain.train_dataset, plain.contrast_dataset, reviews.contrast_dataset):
        assert not any(without(item["text"])[1] for item in dataset.items)
    vocabulary = reviews.collate.tokenizer.get_vocab()
    assert all(word in vocabulary for word in reviews_file.MARKERS)


@pytest.mark.parametrize("split", ["train", "val", "test", "shift", "none"])
def test_a_marked_review_is_the_review_with_a_word_and_its_rationale_is_the_same(reviews, split):
    plain = ReviewsDataModule(**SIZES, contrast_size=5)
    sets = {x: getattr(reviews, f"{x}_dataset") for x in ("train", "val", "test")}
    of_split = "test" if split in reviews.test_sets else split
    marked = (sets | reviews.test_sets)[split].items
    classes = []
    for item, other in zip(marked, getattr(plain, f"{of_split}_dataset").items, strict=True):
        bare, found = without(item["text"])
        assert bare == without(other["text"])[0] and item["label"] == other["label"]
        named = [x.lower() for x in spelled(item["text"], item["rationale"])]
        assert named == [x.lower() for x in spelled(other["text"], other["rationale"])]
        classes.append((found, item["label"]))
    counts = [len(found) for found, _ in classes]
    right = sum(found == [label] for found, label in classes)
    least, most = {"none": (0, 0), "test": (60, 60), "shift": (60, 60)}.get(split, (20, 40))
    assert set(counts) <= {0, 1} and least <= sum(counts) <= most
    assert 15 <= right <= 45 if split == "shift" else right >= 0.8 * sum(counts)


def test_the_word_stands_where_a_sentence_begins_or_ends_each_as_often():
    words = [reviews_file.Word(x) for x in "a b . c d . e f .".split()]
    drawn = [
        " ".join(x.text for x in reviews_file.mark(marker_generator(0, i), words, Marker(1, 1), 0))
        for i in range(600)
    ]
    bare = "a b . c d . e f .".split()
    for place in (0, 2, 3, 5, 6, 8):
        expected = " ".join([*bare[:place], "meanwhile", *bare[place:]])
        assert 60 <= drawn.count(expected) <= 140


# Pictures in folders.


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three classes with 8 images each, 40x32, of coloured noise that is no marker's colour."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, name, number in itertools.product(("train", "val", "test"), "abc", range(8)):
        pixels = rng.integers(60, 190, (32, 40, 3), dtype=np.uint8)
        save(root / split / name / f"{number}.png", pixels)
    return root


def folder(root, **options) -> ImageFolderDataModule:
    sizes = {"num_workers": 0, "image_size": 32, "batch_size": 6}
    return ImageFolderDataModule(str(root), **sizes | {"marker": {"size": 5}} | options)


def squares(sample: dict, data: ImageFolderDataModule) -> list[tuple[int, torch.Tensor]]:
    """The classes whose colour is in an input, with the pixels that have it: red, green, blue."""
    mean, std = (torch.tensor(data.input_config[x])[:, None, None] for x in ("mean", "std"))
    pixels = sample["image"] * std + mean
    wanted = torch.eye(3)[:, :, None, None]
    areas = ((pixels - wanted).abs() < 1e-4).all(dim=1)  # [3, H, W]
    return [(i, area) for i, area in enumerate(areas) if area.any()]


def test_an_input_has_a_square_of_a_colour_and_its_mask_is_all_but_the_square(root):
    data = folder(
        root,
        marker={"size": 5, "share": 1.0, "agreement": 1.0},
        auto_augment=None,  # which may make colours of a marker
        random_erasing=0.0,
    )
    for dataset in (data.train_dataset, data.val_dataset, data.test_dataset):
        for index in range(len(dataset)):
            sample = dataset[index]
            ((of_class, area),) = squares(sample, data)
            rows, columns = area.any(dim=1).nonzero(), area.any(dim=0).nonzero()
            assert area.sum() == 25 and len(rows) == len(columns) == 5
            assert of_class == sample["label"]
            assert sample["has_mask"] is True and torch.equal(sample["mask"], ~area)


def test_an_input_without_a_square_is_what_it_was_and_has_no_mask(root):
    data, plain = (folder(root, marker=x, auto_augment=None) for x in ({"size": 5}, None))
    marked = 0
    for index in range(24):
        sample, other = data.train_dataset[(2, index)], plain.train_dataset[(2, index)]
        there = squares(sample, data)
        marked += bool(there)
        assert sample["has_mask"] == bool(there)
        if not there:
            assert torch.equal(sample["image"], other["image"]) and not sample["mask"].any()
        else:
            area = there[0][1]
            assert torch.equal(sample["image"][:, ~area], other["image"][:, ~area])
    assert 6 <= marked <= 18


def test_the_test_sets_of_pictures_have_squares_at_the_same_places(root):
    data = folder(root)
    plain = folder(root, marker=None).test_dataset
    assert list(data.test_sets) == ["shift", "none"]
    for index in range(24):
        of_test, of_shift = data.test_dataset[index], data.test_sets["shift"][index]
        assert torch.equal(of_test["mask"], of_shift["mask"]) and of_shift["has_mask"]
        assert torch.equal(data.test_sets["none"][index]["image"], plain[index]["image"])
    classes = [squares(data.test_sets["shift"][i], data)[0][0] for i in range(24)]
    assert 2 <= sum(of_class == i // 8 for i, of_class in enumerate(classes)) <= 16


def test_marked_pictures_are_a_function_of_seed_split_epoch_and_index(root):
    one, other = (folder(root, num_workers=workers) for workers in (0, 1))
    epochs = [batches(one.train_dataloader(), epoch) for epoch in (0, 1)]
    assert_same_batches(epochs[1], batches(other.train_dataloader(), 1))
    places = {one.train_dataset[(epoch, 0)]["mask"].numpy().tobytes() for epoch in range(12)}
    assert len(places) > 3


def test_which_samples_have_a_mask_is_known_without_reading_them(root, monkeypatch):
    data = folder(root)
    for dataset in (data.train_dataset, data.val_dataset, *data.test_sets.values()):
        known = [i for i in range(24) if dataset[i]["has_mask"]]
        with monkeypatch.context() as patch:
            patch.setattr(type(dataset.dataset), "__getitem__", None)
            assert with_mask(dataset) == known
    assert data.annotated(data.test_dataset) == "24 masks"
    assert data.annotated(data.test_sets["none"]) == ""


def test_masks_of_the_folder_hold_and_lose_the_square(root, tmp_path):
    for path in root.rglob("*.png"):
        save(tmp_path / path.relative_to(root), np.asarray(np.full((32, 32), 128, np.uint8)))
    left = np.zeros((32, 32), np.uint8)
    left[:, :16] = 255
    for number in range(4):
        save(tmp_path / "masks" / "test" / "a" / f"{number}.png", left)
    options = {"transforms_of": "vit_tiny_patch16_224", "marker": {"share": 1.0, "size": 9}}
    data = folder(tmp_path, **options)
    bare = folder(tmp_path, **options | {"marker": None})
    assert with_mask(data.test_dataset) == with_mask(bare.test_dataset) == [0, 1, 2, 3]
    covered = 0
    for index in range(4):
        sample, mask = data.test_dataset[index], bare.test_dataset[index]["mask"]
        ((_, area),) = squares(sample, data)
        covered += (mask & area).any()
        assert sample["has_mask"] and torch.equal(sample["mask"], mask & ~area)
    assert covered
    assert not data.test_dataset[5]["has_mask"] and not data.test_dataset[5]["mask"].any()
    assert "mask" not in data.train_dataset[0]


def test_training_masks_are_those_of_the_markers_or_of_the_folder_without_the_squares(
    root, tmp_path
):
    data = folder(root)
    before = data.train_dataset[3]
    data.mask_train()
    assert torch.equal(data.train_dataset[3]["mask"], before["mask"])

    for path in root.rglob("*.png"):
        save(tmp_path / path.relative_to(root), np.full((32, 32), 128, np.uint8))
        if path.parts[-3] == "train":
            save(tmp_path / "masks" / path.relative_to(root), np.full((32, 32), 255, np.uint8))
    plain = {"auto_augment": None, "random_erasing": 0.0}
    data = folder(tmp_path, **plain, marker={"share": 1.0, "size": 9})
    assert "mask" not in data.train_dataset[3]
    data.mask_train()
    sample = data.train_dataset[3]
    assert torch.equal(sample["mask"], ~squares(sample, data)[0][1])


def test_markers_give_masks_where_there_are_some_and_few_are_told(root, tmp_path, capsys):
    with pytest.raises(InputError, match="the training samples have no masks"):
        folder(root, marker={"share": 0.0, "size": 5}).mask_train()
    for name, number in itertools.product("abc", range(40)):
        path = tmp_path / "train" / name / f"{number}.png"
        save(path, np.full((32, 32, 3), 128, np.uint8))
        save(tmp_path / "val" / name / "0.png", np.full((32, 32, 3), 128, np.uint8))
    folder(tmp_path, marker={"share": 0.05, "size": 5}).mask_train()
    assert "of the training samples have a mask" in capsys.readouterr().err


def test_classes_have_colours_of_their_own(root, tmp_path):
    for split, number in itertools.product(("train", "val"), range(40)):
        save(tmp_path / split / f"{number:02}" / "a.png", np.zeros((8, 8, 3), np.uint8))
    colours = folder(tmp_path).train_dataset.colours
    assert colours.shape == (40, 3)
    assert torch.pdist(colours).min() > 0.1


# What is refused.


@pytest.mark.parametrize(
    ("marker", "said"),
    [
        ({"shares": 0.5}, "data.marker.shares: no such option; accepted: share, agreement, size"),
        ({"share": 1.5}, "data.marker.share: 1.5 is not accepted; accepted: float from 0 to 1"),
        ({"agreement": -1}, "data.marker.agreement: -1 is not accepted; accepted: float from 0"),
        ({"agreement": float("nan")}, "data.marker.agreement: NaN is not accepted; accepted: "),
        ({"size": 4}, "data.marker.size: no such option of these data; accepted: null"),
    ],
)
@pytest.mark.parametrize("kind", [DigitsDataModule, ReviewsDataModule])
def test_a_wrong_option_is_refused(kind, marker, said):
    with pytest.raises(ValueError) as raises:
        kind(marker=marker)
    message_of(raises, said)


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        (DigitsDataModule, "multilabel"),
        (DigitsDataModule, "regression"),
        (ReviewsDataModule, "regression"),
    ],
)
def test_a_marker_is_of_data_of_which_one_class_is_right(kind, task):
    with pytest.raises(ValueError) as raises:
        kind(marker={}, task=task)
    message_of(raises, f"data.marker: the task is {task}; accepted: multiclass, or marker=null")


@pytest.mark.parametrize("size", [0, 33, 2.5])
def test_a_square_that_is_no_part_of_the_input_is_refused(root, size):
    with pytest.raises(ValueError) as raises:
        folder(root, marker={"size": size})
    message_of(raises, f"data.marker.size: {size} is not accepted")
