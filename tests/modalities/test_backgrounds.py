"""Objects on other backgrounds: nothing of the other's object comes along."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsClassifier

from lightning_modules.backgrounds import Backgrounds
from lightning_modules.data.images.digits import (
    CORNERS,
    TILE,
    DigitsDataModule,
    split_sources,
)
from lightning_modules.data.texts.batches import TextCollator
from lightning_modules.data.texts.pairs import Pair
from lightning_modules.data.texts.tokenizers import input_config_of, train_tokenizer
from lightning_modules.modalities import Texts
from lightning_modules.modalities.images.backgrounds import (
    objects_and_holes,
    on_backgrounds,
    widened,
)

SCENES = 200


@cache
def scenes() -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Pictures, masks and labels."""
    dataset = DigitsDataModule(val_size=SCENES).val_dataset
    samples = [dataset[i] for i in range(SCENES)]
    pictures, masks = (torch.stack([x[name] for x in samples]) for name in ("image", "mask"))
    return pictures, masks, np.array([x["label"] for x in samples])


@cache
def reader() -> KNeighborsClassifier:
    """Names a digit by the one of train that it is most like, of ink 0 to 1."""
    sources = DigitsDataModule().train_dataset.sources
    return KNeighborsClassifier(1).fit(sources.ink.reshape(-1, TILE * TILE), sources.classes)


def read(ink: torch.Tensor, masks: torch.Tensor, labels: np.ndarray) -> float:
    """How often the digit that was where the masks are is read, of ``ink`` [B, 32, 32]."""
    tiles = []
    for picture, mask in zip(ink, masks, strict=True):
        within = [mask[r : r + TILE, c : c + TILE].sum() for r, c in CORNERS]
        row, column = CORNERS[int(torch.stack(within).argmax())]
        tiles.append(picture[row : row + TILE, column : column + TILE].flatten())
    return (reader().predict(torch.stack(tiles).numpy()) == labels).mean()


def ink(pictures: torch.Tensor) -> torch.Tensor:
    return pictures[:, 0] / 2 + 0.5


def test_no_second_digit_comes_along_with_a_background():
    """Beside it, what the reader finds where the other's whole outside is taken."""
    pictures, masks, labels = scenes()
    other = torch.arange(SCENES).roll(SCENES // 2)
    made, there = on_backgrounds(pictures, masks, pictures[other], masks[other])
    assert there.all()
    naive = torch.where(masks[:, None], pictures, pictures[other])
    assert read(ink(naive), masks[other], labels[other]) > 0.7
    assert read(ink(made), masks[other], labels[other]) < 0.2
    assert read(ink(made), masks, labels) > 0.7  # the own digit is there
    assert torch.equal(made.masked_select(masks[:, None]), pictures.masked_select(masks[:, None]))


def test_the_outline_of_what_is_filled_in_tells_nothing():
    """To a reader of outlines alone; the outlines of strokes and their margin it can read."""

    def legible(outline) -> float:
        parts = split_sources(0)["train"], split_sources(0)["val"]
        masks = (F.pad(torch.from_numpy(part.ink > 0), (4, 4, 4, 4)) for part in parts)
        train, val = (outline(of_part).flatten(1).float().numpy() for of_part in masks)
        return KNeighborsClassifier(5).fit(train, parts[0].classes).score(val, parts[1].classes)

    assert legible(widened) > 0.7
    assert legible(lambda masks: objects_and_holes(masks)[1]) < 0.25


def test_a_box_has_a_margin_and_what_is_moved_lies_in_it():
    mask = torch.zeros(2, 64, 64, dtype=torch.bool)
    mask[0, 20, 20:30] = mask[0, 20:40, 20] = True
    moved, hole = objects_and_holes(mask)
    expected = torch.zeros_like(mask)
    expected[0, 19:41, 19:31] = True
    assert torch.equal(hole, expected) and not (moved & ~hole).any()
    assert moved[0].sum() == 3 * 12 + 3 * 19


def test_of_an_object_that_surrounds_its_background_the_mask_is_taken_as_it_is():
    """All but a marker is object: another marker takes its place, and nothing else changes."""
    pictures, mask = torch.rand(2, 3, 32, 32), torch.ones(2, 32, 32, dtype=torch.bool)
    mask[:, 8:12, 8:12] = False
    made, there = on_backgrounds(pictures, mask, pictures.flip(0), mask.flip(0))
    assert torch.equal(made, torch.where(mask[:, None], pictures, pictures.flip(0)))
    assert there.all()


def test_the_control_is_the_picture_but_for_what_is_filled_in():
    pictures, masks, _ = scenes()
    made, _ = on_backgrounds(pictures, masks, pictures, masks)
    moved, holes = objects_and_holes(masks)
    changed = (made != pictures).any(dim=1)
    assert changed.any() and not (changed & ~(holes & ~moved)).any()


def test_the_objects_of_several_labels_are_each_filled_in():
    dataset = DigitsDataModule(task="multilabel", val_size=20).val_dataset
    samples = [dataset[i] for i in range(20)]
    pictures, masks = (torch.stack([x[name] for x in samples]) for name in ("image", "mask"))
    other = torch.arange(20).roll(10)
    made, _ = on_backgrounds(pictures, masks, pictures[other], masks[other])
    united, others = masks.any(dim=1), masks[other].any(dim=1) & ~widened(masks.any(dim=1))
    assert torch.equal(made.masked_select(united[:, None]), pictures.masked_select(united[:, None]))
    assert ink(pictures[other])[others].mean() > 0.5 > 2 * ink(made)[others].mean()
    one_by_one = torch.stack(
        [objects_and_holes(mask[mask.flatten(1).any(1)])[1].any(0) for mask in masks]
    )
    assert torch.equal(objects_and_holes(masks)[1], one_by_one)


def test_a_picture_that_is_all_object_or_all_background_does_not_count():
    pictures, masks, _ = scenes()
    pictures, masks = pictures[:3], masks[:3].clone()
    masks[1], masks[2] = False, True
    _, own = on_backgrounds(pictures, masks, pictures[:1].expand(3, -1, -1, -1), masks[[0, 0, 0]])
    _, other = on_backgrounds(pictures[[0, 0, 0]], masks[[0, 0, 0]], pictures, masks)
    assert own.tolist() == [True, False, True] and other.tolist() == [True, True, False]


# --------------------------------------------------------------------------------------- texts

TEXTS = [
    ("we saw it at home . a great film .", ["great"]),
    ("bad , bad it was", ["bad , bad"]),
    ("the sea is near and it was on a train that the plot bored me", ["bored"]),
    ("nothing", ["nothing"]),
    ("great or not", ["great", "not"]),
]
"""A text, and what of it is the rationale."""


@cache
def modality(max_length: int = 40) -> tuple[Texts, TextCollator]:
    tokenizer = train_tokenizer((text for text, _ in TEXTS), 200, False)
    config = input_config_of(tokenizer, max_length, None)
    return Texts("text", config), TextCollator(tokenizer, max_length)


def batch_of(indices, max_length: int = 40) -> dict:
    items = []
    for text, parts in (TEXTS[i] for i in indices):
        spans = [(text.index(part), text.index(part) + len(part)) for part in parts]
        items.append({"text": text, "label": 0, "rationale": spans})
    return modality(max_length)[1](items)


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [
        (0, 1, "was it was it was it was great it was"),
        (1, 0, "bad , bad home ."),
        (2, 4, " ".join(["or"] * 13) + " bored or"),
        (0, 0, "home . a film . we saw great it at"),
        (4, 4, "great or not"),
    ],
    ids=["repeated", "cut", "one", "control", "control of one word"],
)
def test_rationales_stand_among_the_words_outside_of_those_of_others(own, other, expected):
    texts, _ = modality()
    made, there = texts.on_backgrounds(batch_of([own]), batch_of([other]))
    assert made["text"] == [expected] and there.tolist() == [True]
    assert "label" in made and "rationale" in made
    assert torch.equal(made["input_ids"], texts.batch([expected])["input_ids"])


def test_a_text_does_not_count_without_its_rationale_or_without_other_words():
    texts, _ = modality()
    _, there = texts.on_backgrounds(batch_of([3, 0, 0]), batch_of([0, 3, 1]))
    assert there.tolist() == [False, False, True]


def test_a_text_whose_rationale_longer_words_push_out_does_not_count():
    pieces = modality()[0].tokenizer("great or not")["input_ids"]
    texts, _ = modality(len(pieces))
    own = batch_of([4], len(pieces))
    long = own | {"text": ["great traintraintrain not"], "words": [[(0, 5), (6, 21), (22, 25)]]}
    assert texts.on_backgrounds(own, own)[1].tolist() == [True]
    assert texts.on_backgrounds(own, long)[1].tolist() == [False]


def test_words_of_a_pair_stay_in_their_texts():
    tokenizer = train_tokenizer((text for text, _ in TEXTS), 200, True)
    texts = Texts("text", input_config_of(tokenizer, 40, None) | {"pairs": True})
    collate = TextCollator(tokenizer, 40)
    pairs = [Pair("we saw it", "a great film"), Pair("it was a train", "bad plot")]
    spans = [(pairs[0].start + 2, pairs[0].start + 7)], [(pairs[1].start, pairs[1].start + 3)]
    own, other = (
        collate([{"text": str(pair), "second": pair.start, "label": 0, "rationale": of_pair}])
        for pair, of_pair in zip(pairs, spans, strict=True)
    )
    made, there = texts.on_backgrounds(own, other)
    assert made["text"] == [str(Pair("a train plot", "it great was"))] and there.tolist() == [True]


# --------------------------------------------------------------------------------- other samples


def partners(labels: list[int]) -> list[int]:
    """For each sample the place of the one whose background it is put on."""
    samples = [{"label": label, "place": place} for place, label in enumerate(labels)]
    backgrounds = Backgrounds(SimpleNamespace(), None, None, samples)
    places = range(len(labels))
    return [backgrounds.other(place, torch.tensor(labels[place]))["place"] for place in places]


def test_the_other_sample_is_half_the_data_further_on_and_of_another_label():
    assert partners([0, 0, 0, 1, 1, 1]) == [3, 4, 5, 0, 1, 2]
    assert partners([0, 1, 0, 1, 2]) == [3, 4, 4, 0, 1]
    assert partners([0, 0]) == [1, 0]  # there is no other label
    alike = partners([0] * 60 + [1])  # 8 are looked at
    assert alike[22:31] == [52, *[60] * 8] and alike[31] == 0
