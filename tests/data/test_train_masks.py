"""Masks of training pictures go where the augmentation takes the picture."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data import auto_augment

from lightning_modules.data import DigitsDataModule, ImageFolderDataModule
from lightning_modules.data.images import transforms
from lightning_modules.data.images.paired import COLOURS, GEOMETRIC, PairedTransform
from lightning_modules.data.images.transforms import make_train_transform, seeded
from lightning_modules.utils.errors import InputError
from tests.helpers.samples import assert_same_batches, batches, message_of, random_states, save

POLICIES = [
    *("rand-m9-mstd0.5-inc1", "rand-m9-n3-mstd0.5", "rand-m15-n4-p1-mmax20-mstd101-inc1"),
    *("rand-m9-n2-tweights", "rand-m9-n2-t3a-inc1", "rand-m7-n2-t3aw", "original", "originalr"),
    *("v0", "v0r", "original-mstd0.5"),
]
SEEDS = 40
CONFIG = {"input_size": [3, 40, 40], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
WHITE = (1 - torch.tensor(CONFIG["mean"])) / torch.tensor(CONFIG["std"])


def transform(policy: str | None, interpolation="nearest", erasing=0.5, scale=(0.2, 1.0)):
    config = CONFIG | {"interpolation": interpolation}
    return make_train_transform(config, policy, erasing, 0.5, list(scale))


def blob(seed: int) -> Image.Image:
    """A mask of 56 x 44 pixels whose object is a shape without symmetry; mode "L"."""
    mask = np.zeros((44, 56), np.uint8)
    top, left = np.random.default_rng(seed).integers(2, 18, 2)
    mask[top : top + 22, left : left + 10] = mask[top : top + 7, left : left + 30] = 255
    return Image.fromarray(mask)


def without_colours(monkeypatch) -> None:
    """timm's operations on colours leave a picture as it is, whatever they have drawn."""
    known = {name: lambda x, *_, **__: x for name in auto_augment.NAME_TO_OP}
    moving = {name: auto_augment.NAME_TO_OP[name] for name in GEOMETRIC}
    monkeypatch.setattr(auto_augment, "NAME_TO_OP", known | moving)
    monkeypatch.setattr(transforms, "posterize", lambda x, *_, **__: x)


# -------------------------------------------------------------------------- where the object goes


@pytest.mark.parametrize("policy", [None, *POLICIES])
def test_a_picture_that_is_its_mask_stays_it(policy, monkeypatch):
    """Of the moves alone, with nearest interpolation for both: a pixel is white in all channels
    where and only where the mask is True. What comes in from outside is grey, and what is erased is
    noise."""
    without_colours(monkeypatch)
    pair, shares = PairedTransform(transform(policy), policy), []
    for seed in range(SEEDS):
        mask = blob(seed)
        image, found = pair(mask.convert("RGB"), mask, seed)
        assert found.dtype == torch.bool and found.shape == (40, 40)
        assert torch.equal(torch.isclose(image, WHITE[:, None, None]).all(dim=0), found), seed
        shares.append(found.float().mean().item())
    assert min(shares) < 0.1 < 0.25 < max(shares)


@pytest.mark.parametrize("policy", ["rand-m15-n4-p1-mmax20-mstd101-inc1", "rand-m7-n2-t3aw", "v0"])
def test_colours_change_nothing_of_where_a_mask_goes(policy, monkeypatch):
    pair = PairedTransform(transform(policy, "bicubic"), policy)
    found = [pair(blob(x).convert("RGB"), blob(x), x)[1] for x in range(SEEDS)]
    without_colours(monkeypatch)
    plain = PairedTransform(transform(policy, "bicubic"), policy)
    for seed, mask in enumerate(found):
        assert torch.equal(plain(blob(seed).convert("RGB"), blob(seed), seed)[1], mask)


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "original"])
def test_with_its_colours_a_picture_is_of_one_colour_on_the_inside_of_its_mask(policy):
    """Nothing is taken for the identity here. Without 3 pixels at its edges, which sharpening and
    the two interpolations may touch, a mask lies on one colour, and what is not of it has others
    in most pictures; in some equalizing or posterizing makes all colours one."""
    pair = PairedTransform(transform(policy, erasing=0.0), policy)
    apart = []
    for seed in range(SEEDS):
        image, found = pair(blob(seed).convert("RGB"), blob(seed), seed)
        inside, outside = eroded(found), eroded(~found)
        if inside.any():
            colour = image[:, inside]
            assert torch.equal(colour, colour[:, :1].expand_as(colour)), seed
            apart.append((image[:, outside] != colour[:, :1]).any(dim=0).all())
    assert len(apart) > 0.8 * SEEDS and np.mean(apart) > 0.8


def eroded(mask: torch.Tensor) -> torch.Tensor:
    """Where a mask is True, and all pixels up to 3 away are."""
    return -torch.nn.functional.max_pool2d(-mask[None].float(), 7, 1, 3)[0] > 0


def test_erased_pixels_are_no_object():
    """The picture's noise lies where a mask that is True everywhere has its hole."""
    whole = Image.new("L", (40, 40), 255)
    options = {"policy": None, "erasing": 1.0, "scale": (1.0, 1.0)}
    pair = PairedTransform(transform(**options), None)
    for seed in range(20):
        image, found = pair(whole.convert("RGB"), whole, seed)
        erased = ~torch.isclose(image, WHITE[:, None, None]).all(dim=0)
        assert erased.any() and torch.equal(found, ~erased)


# ------------------------------------------------------------------------ what does not change


policies = st.one_of(
    st.sampled_from([None, "original", "originalr", "v0", "v0r"]),
    st.builds(
        "rand-m{}-n{}-p{}-mstd{}-inc{}{}".format,
        st.integers(0, 15),
        st.integers(1, 5),
        st.sampled_from([0.0, 0.3, 1.0]),
        st.sampled_from([0, 0.5, 101]),
        st.integers(0, 1),
        st.sampled_from(["", "-mmax15", "-tweights", "-t3a"]),
    ),
)


@settings(deadline=None)
@given(
    policies, st.floats(0, 1), st.sampled_from(["bicubic", "bilinear", "nearest"]), st.integers(0)
)
def test_pictures_and_generators_do_not_know_of_masks(policy, erasing, interpolation, seed):
    """Bit for bit, whatever the policy; that both passes end in one state is checked within."""
    made = transform(policy, interpolation, erasing, (0.08, 1.0))
    noise = np.random.default_rng(0).integers(0, 256, (44, 56, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    with seeded(seed, 1, 2):
        alone = made(picture)
    before = random_states()
    image, _ = PairedTransform(made, policy)(picture, blob(0), seed, 1, 2)
    assert torch.equal(image, alone) and random_states() == before


def test_every_operation_of_timm_is_known():
    """Those that move pixels take a `resample`; one draws while it changes colours."""
    assert COLOURS | GEOMETRIC | {"GaussianBlurRand"} == set(auto_augment.NAME_TO_OP)
    for name, function in auto_augment.NAME_TO_OP.items():
        moves = "_check_args_tf" in function.__code__.co_names
        assert moves == (name in GEOMETRIC), name


# --------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("policy", "what"), [("augmix-m3-w3", "AugMixAugment"), ("3a", "GaussianBlurRand")]
)
def test_policies_that_a_mask_cannot_follow_are_refused(policy, what):
    with pytest.raises(InputError) as raises:
        PairedTransform(transform(policy), policy)
    message_of(raises, f'data.auto_augment="{policy}"', f"cannot follow {what}; accepted: null, or")


def test_a_mask_that_has_fallen_out_of_step_is_refused(monkeypatch):
    """As it would be with an operation that draws in a timm to come."""

    def noisy(picture, *_, **__):
        random.random()
        return picture

    monkeypatch.setitem(auto_augment.NAME_TO_OP, "Invert", noisy)
    pair = PairedTransform(transform("rand-m9-n4-p1"), "rand-m9-n4-p1")
    with pytest.raises(InputError, match="a mask cannot follow what it draws; accepted"):
        for seed in range(20):
            pair(blob(0).convert("RGB"), blob(0), seed)


# --------------------------------------------------------------------------- data sets


@pytest.fixture
def root(tmp_path):
    """Two classes with 10 training and one validation image each; masks of two of train."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 1)):
        for name in ("cat", "dog"):
            for number in range(count):
                pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
                save(tmp_path / split / name / f"{number}.png", pixels)
    save(tmp_path / "masks" / "train" / "cat" / "1.png", np.ones((40, 48), np.uint8))
    save(tmp_path / "masks" / "train" / "dog" / "0.bmp", np.ones((40, 48), np.uint8))
    return tmp_path


def folder(root, **options) -> ImageFolderDataModule:
    options = {"image_size": 32, "num_workers": 0, "batch_size": 5, "random_erasing": 0.0} | options
    return ImageFolderDataModule(str(root), **options)


def test_masks_of_train_alone_come_when_they_are_asked_for(root):
    data = folder(root)
    assert data.train_dataset[0].keys() == data.val_dataset[0].keys() == {"image", "label"}
    data.mask_train()
    sample = [data.train_dataset[1, index] for index in range(20)]
    assert [x["has_mask"] for x in sample] == [index in (1, 10) for index in range(20)]
    assert [x["mask"].any().item() for x in sample] == [index in (1, 10) for index in range(20)]
    assert data.val_dataset[0].keys() == {"image", "label"}
    batch = next(iter(data.train_dataloader()))
    assert batch["mask"].shape == (5, 32, 32)
    assert batch["mask"].dtype == batch["has_mask"].dtype == torch.bool


def test_training_pictures_and_their_order_are_the_same_with_masks(root):
    plain, masked = folder(root), folder(root, num_workers=1)
    masked.mask_train()
    before = random_states()
    for epoch in range(2):
        of_plain, of_masked = (batches(x.train_dataloader(), epoch) for x in (plain, masked))
        of_masked = [{k: x[k] for k in ("image", "label")} for x in of_masked]
        assert_same_batches(of_plain, of_masked)
    assert random_states() == before


def test_where_all_have_a_mask_none_is_said_to_lack_it(root):
    for path in (root / "train").rglob("*.png"):
        name = path.relative_to(root / "train").with_suffix(".gif")
        for there in (root / "masks" / "train").glob(f"{name.with_suffix('')}.*"):
            there.unlink()
        save(root / "masks" / "train" / name, np.zeros((40, 48), np.uint8))
    data = folder(root)
    data.mask_train()
    assert data.train_dataset[0].keys() == {"image", "label", "mask"}


def test_masks_of_numbers_are_found_as_those_of_classes(root):
    for split in ("train", "val"):
        names = sorted(x.relative_to(root / split) for x in (root / split).rglob("*.png"))
        rows = "".join(f"{name},{number}\n" for number, name in enumerate(names))
        (root / split / "labels.csv").write_text("file,age\n" + rows)
    data = folder(root, task="regression")
    data.mask_train()
    assert [x for x in range(20) if data.train_dataset[x]["has_mask"]] == [1, 10]


def test_few_masks_are_told_with_their_share(root, capsys):
    data = folder(root)
    data.mask_train()  # a tenth
    assert "do not count" not in capsys.readouterr().err
    (root / "masks" / "train" / "dog" / "0.bmp").unlink()
    folder(root).mask_train()
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told == (
        "guidance: 5.00% of the training samples have a mask (1 of 20); the others do not count"
    )


def test_a_mask_of_another_size_than_its_training_picture_is_told(root):
    path = root / "masks" / "train" / "cat" / "1.png"
    save(path, np.ones((48, 40), np.uint8))
    data = folder(root)
    data.mask_train()
    with pytest.raises(InputError) as raises:
        data.train_dataset[1]
    message_of(raises, path, root / "train" / "cat" / "1.png", "40x48", "48x40")


def test_masks_of_no_training_picture_are_told(root):
    for path in (root / "masks" / "train").rglob("*.*"):
        path.rename(path.with_name("wrong.png"))
    with pytest.raises(InputError) as raises:
        folder(root).mask_train()
    message_of(raises, "no sample of train has a mask there", root / "masks/train/cat/0")


@pytest.mark.parametrize("policy", ["augmix-m3-w3", "3a"])
def test_a_policy_is_refused_when_masks_are_asked_for_and_changes_nothing(root, policy):
    data = folder(root, auto_augment=policy)
    with pytest.raises(InputError, match="guidance with data.auto_augment="):
        data.mask_train()
    assert data.train_dataset[1].keys() == {"image", "label"}


def test_folders_of_several_labels_say_why_they_have_no_masks(root):
    for split in ("train", "val"):
        names = sorted(x.relative_to(root / split) for x in (root / split).rglob("*.png"))
        rows = "".join(f"{name},{name.parent}\n" for name in names)
        (root / split / "labels.csv").write_text("file,labels\n" + rows)
    with pytest.raises(InputError) as raises:
        folder(root, task="multilabel").mask_train()
    message_of(raises, "guidance: ", "which of several labels a mask is of; accepted: task=")


def test_data_without_masks_say_which_data_have_them(root):
    (root / "masks" / "train").rename(root / "masks" / "elsewhere")
    (root / "masks").rename(root / "gone")
    with pytest.raises(InputError) as raises:
        folder(root).mask_train()
    message_of(raises, "guidance: the training samples have no masks; accepted: digits, image_f")


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "regression"])
def test_digits_have_their_masks_already(task):
    data = DigitsDataModule(task=task, train_size=4, val_size=1, test_size=1, pairs_size=1)
    before = data.train_dataset[1, 2]
    data.mask_train()
    assert_same_batches([before], [data.train_dataset[1, 2]])
