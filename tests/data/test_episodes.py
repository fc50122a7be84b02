"""Episodes: functions of (seed, epoch, index), of digits and of pictures in folders."""

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_modules.data import (
    DigitEpisodesDataModule,
    EpochSampler,
    FolderEpisodesDataModule,
)
from lightning_modules.data.images.episodes import split_classes
from lightning_modules.utils.errors import InputError

SIZES = {"way": 3, "shot": 2, "queries": 4}


def digits(**options) -> DigitEpisodesDataModule:
    return DigitEpisodesDataModule(**SIZES | {"train_episodes": 6, "test_episodes": 5} | options)


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_an_episode_has_a_support_and_queries_of_each_class():
    data = digits()
    episode = data.train_dataset[0]
    assert {name: tuple(x.shape) for name, x in episode.items()} == {
        "support": (3, 2, 3, 32, 32),
        "support_mask": (3, 2, 32, 32),
        "image": (12, 3, 32, 32),
        "mask": (12, 32, 32),
        "label": (12,),
        "classes": (3,),
    }
    assert episode["label"].tolist() == [0, 1, 2] * 4
    assert len(set(episode["classes"].tolist())) == 3
    scenes = torch.cat([episode["support"].flatten(0, 1), episode["image"]])
    assert len(scenes.flatten(1).unique(dim=0)) == len(scenes)
    masks = torch.cat([episode["support_mask"].flatten(0, 1), episode["mask"]])
    assert (scenes[:, 0][masks] > -1).all() and masks.flatten(1).any(dim=1).all()


def test_digits_are_where_the_labels_say():
    """The masked ink is that of a handwritten digit of the class, in its own split."""
    data = digits(test_classes=[7, 8, 9])
    for dataset in (data.train_dataset, data.test_dataset):
        pool, episode = dataset.pool, dataset[1]
        for image, mask, place in zip(
            episode["image"], episode["mask"], episode["label"].tolist(), strict=True
        ):
            ink = (image[0] / 2 + 0.5)[mask]
            of_class = pool.sources.ink[pool.sources.classes == int(episode["classes"][place])]
            assert any(np.array_equal(x[x > 0], ink.numpy()) for x in of_class)
    assert data.test_dataset.pool.class_names == ["7", "8", "9"]
    assert data.train_dataset.pool.class_names == [str(x) for x in range(7)]


def test_an_episode_depends_on_seed_split_epoch_and_index_alone():
    data, again, other = digits(), digits(), digits(seed=1)
    state = torch.random.get_rng_state()
    for key in ((0, 2), (3, 2)):
        assert same(data.train_dataset[key], again.train_dataset[key])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert same(data.train_dataset[2], data.train_dataset[0, 2])
    images = [
        data.train_dataset[0, 2],
        data.train_dataset[1, 2],
        data.train_dataset[0, 3],
        other.train_dataset[0, 2],
        digits(train_classes=None, test_classes=[7, 8, 9]).test_dataset[2],
    ]
    assert len({x["image"].numpy().tobytes() for x in images}) == len(images)
    assert same(data.test_dataset[4], again.test_dataset[4])
    with pytest.raises(IndexError, match="test has episodes 0 to 4, not 5"):
        data.test_dataset[5]


def test_two_processes_have_the_episodes_of_one_that_takes_two_a_step():
    dataset = digits().train_dataset
    one = EpochSampler(dataset, seed=0, num_replicas=1, rank=0)
    two = [EpochSampler(dataset, seed=0, num_replicas=2, rank=rank) for rank in range(2)]
    for sampler in (one, *two):
        sampler.set_epoch(4)
    pairs = list(zip(*two, strict=True))
    keys = list(one)
    assert pairs == [tuple(keys[i : i + 2]) for i in range(0, 6, 2)]


def test_a_batch_has_queries_for_samples():
    data = digits(batch_size=2)
    batch = next(iter(data.val_dataloader()))
    assert batch["support"].shape == (2, 3, 2, 3, 32, 32) and batch["classes"].shape == (2, 3)
    assert batch["image"].shape == (24, 3, 32, 32) and batch["label"].shape == (24,)
    assert torch.equal(batch["image"][12:], data.val_dataset[1]["image"])


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(("ant", "bee", "cat", "dog", "elk")):
        for i in range(6):
            path = tmp_path / name / f"{i}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (20, 16), (40 * number + 20, 30 * i + 10, 0)).save(path)
    return tmp_path


def of_folder(folder, **options) -> FolderEpisodesDataModule:
    given = {"root": str(folder), "image_size": 16, "train_classes": ["ant", "bee", "cat"]}
    return FolderEpisodesDataModule(**SIZES | {"way": 2, "num_workers": 0} | given | options)


def test_episodes_of_a_folder_are_of_the_classes_of_their_split(folder):
    data = of_folder(folder)
    assert data.test_dataset.pool.class_names == ["dog", "elk"]
    for dataset, first in ((data.train_dataset, 0), (data.test_dataset, 3)):
        episode = dataset[3]
        assert "mask" not in episode and episode["image"].shape == (8, 3, 16, 16)
        mean, std = (torch.tensor(data.input_config[x]) for x in ("mean", "std"))
        red, green, _ = (episode["image"][:, :, 8, 8] * std + mean).T * 255
        number = (red.round().long() - 20) // 40
        assert torch.equal(number, episode["classes"][episode["label"]] + first)
        seen = episode["support"][:, :, 1, 8, 8] * std[1] + mean[1]
        for place in range(2):  # no picture of the support is asked about
            asked = green[episode["label"] == place] / 255
            assert not torch.isclose(seen[place][:, None], asked[None], atol=0.01).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shot": 3}, "is 3 and data.queries 4, and class ant of train has 6 pictures; accepted: "),
        ({"way": 3}, "data.way is 3, and val has 2 classes; accepted: 2, or more data.val_classes"),
        ({"test_classes": ["elk"]}, "val has 1 class; accepted: more data.val_classes"),
        ({"test_classes": ["cat", "dog"]}, "data.val_classes and data.train_classes both have cat"),
        ({"val_classes": ["ant", "bee"]}, "data.val_classes and data.train_classes both have ant"),
        ({"train_classes": ["fox"]}, r"data.train_classes is \['fox'\]; accepted: some of the da"),
        ({"train_classes": ["ant", "ant"]}, "each once: ant, bee"),
        ({"root": "/no/such"}, "no such folder; accepted: root/<class>/<image>"),
        ({"train_classes": None}, "data.train_classes and data.test_classes are null; accepted"),
    ],
)
def test_what_makes_no_episodes_is_told(folder, options, message):
    with pytest.raises((InputError, FileNotFoundError), match=message):
        of_folder(folder, **options)


def test_a_digit_is_never_in_a_support_and_among_its_queries():
    """An episode may take all handwritten ones of a digit, and none of them twice."""
    fewest = min(digits().test_dataset.pool.counts)
    episode = digits(way=2, shot=fewest - 1, queries=1).test_dataset[0]
    for place in range(2):
        images = [*episode["support"][place], episode["image"][place]]
        masks = [*episode["support_mask"][place], episode["mask"][place]]
        ink = {x[0][mask].numpy().tobytes() for x, mask in zip(images, masks, strict=True)}
        assert len(ink) == fewest
    told = "data.shot is 40 and data.queries 4, and class 7 of val has 3[0-9] pictures; accepted: "
    with pytest.raises(InputError, match=told):
        digits(shot=40)


def test_what_is_not_named_is_what_is_left():
    names = ["a", "b", "c", "d"]
    assert split_classes(names, ["a", "b"], None, None)["test"] == ["c", "d"]
    assert split_classes(names, None, ["a"], ["b"])["train"] == ["c", "d"]
    assert split_classes(names, ["a"], None, ["b"])["val"] == ["b"]
    assert list(split_classes(names, ["a"], ["b"], ["c"])) == ["train", "val", "test"]
