"""The made-up reviews: their rule, read again from the text, and their contrasts."""

import hashlib
import json

import numpy as np
import pytest

from lightning_modules.data import (
    ReviewsDataModule,
)
from lightning_modules.data.texts.reviews import (
    MARKERS,
    MODIFIERS,
    OPPOSITES,
    make_contrast,
    make_review,
)
from tests.helpers.samples import SMALL, spelled


@pytest.fixture(scope="module")
def reviews() -> ReviewsDataModule:
    return ReviewsDataModule(**SMALL)


def test_reviews_are_a_function_of_seed_split_and_index(reviews):
    again = ReviewsDataModule(**(SMALL | {"train_size": 20}))
    assert again.train_dataset.items == reviews.train_dataset.items[:20]
    assert reviews.train_dataset[(5, 3)] == reviews.train_dataset[3]  # in any epoch
    assert reviews.val_dataset[7] == make_review(0, "val", 7)
    variants = [make_review(0, "val", 7), make_review(1, "val", 7), make_review(0, "test", 7)]
    assert len({review["text"] for review in variants}) == 3


def test_reviews_of_the_splits_differ():
    train, val, test = (
        [make_review(0, split, index)["text"] for index in range(500)]
        for split in ("train", "val", "test")
    )
    assert sum(text in set(train) for text in val + test) <= 10


def test_reviews_follow_the_rule():
    """Label and rationale again, from the text alone."""
    negative_first = list(OPPOSITES)[::2]
    lengths, concessions, labels = [], 0, []
    for index in range(500):
        review = make_review(0, "train", index)
        text = review["text"]
        (opinion,) = [
            sentence
            for sentence in text.removesuffix(".").split(". ")
            if set(sentence.split()) & set(OPPOSITES)
        ]
        if ", but " in opinion:
            clause = opinion.split(", but ")[1]
        elif ", although " in opinion:
            clause = opinion.split(", although ")[0]
        else:
            clause = opinion.split(", ")[-1]
        concessions += "," in opinion
        words = clause.split()
        (sentiment,) = set(words) & set(OPPOSITES)
        negations = [word for word in words if word in MODIFIERS["negation"]]
        positive = (sentiment not in negative_first) != bool(negations)
        assert review["label"] == positive, text
        assert spelled(text, review["rationale"]) == [*negations, sentiment], text
        if "," in opinion:
            assert len(set(opinion.replace(",", "").split()) & set(OPPOSITES)) == 2 or (
                opinion.count(sentiment) == 2  # the same word, negated once
            )
        assert set(text) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ., ")
        lengths.append(len(text.split()))
        labels.append(review["label"])
    assert 5 <= min(lengths) < 8 and 33 < max(lengths) <= 40
    assert 0.15 < concessions / 500 < 0.5
    assert np.mean(labels) == pytest.approx(0.5, abs=0.07)


def test_contrasts_differ_in_the_flipped_word_alone(reviews):
    dataset = reviews.contrast_dataset
    assert len(dataset) == 20
    assert [dataset[0], dataset[1]] == make_contrast(0, 0)
    exchanged = set()
    for index in range(200):
        one, two = make_contrast(0, index)
        assert one["label"] == 1 - two["label"]
        words, others = one["text"].split(), two["text"].split()
        (place,) = [
            place
            for place, (word, other) in enumerate(zip(words, others, strict=True))
            if word != other
        ]
        for pair in ((one, words), (two, others)):
            (word,) = spelled(pair[0]["text"], [pair[0]["flipped"]])
            assert pair[1][place].rstrip(".,") == word
            kinds = [kind for kind, known in MODIFIERS.items() if word in known]
            exchanged.update(kinds or ["sentiment"])
            assert (pair[0]["flipped"] in pair[0]["rationale"]) == (kinds != ["intensifier"])
    assert exchanged == {"sentiment", "negation", "intensifier"}
    batch = reviews.collate([dataset[0], dataset[1]])
    assert batch["flipped_word"][0] == batch["flipped_word"][1]


# ------------------------------------------------------------------------------------- lengths


def test_reviews_of_the_usual_length_are_those_of_earlier_versions():
    items = [make_review(1, split, i) for split in ("train", "val", "test") for i in range(50)]
    items += [make_contrast(1, i) for i in range(50)]
    found = hashlib.sha256(json.dumps(items).encode()).hexdigest()
    assert found.startswith("d0dfb94b8044274c")


def count(text: str) -> int:
    """Words and commas."""
    return len(text.replace(",", " ,").split())


def test_short_reviews_are_made_longer_by_sentences_without_an_opinion():
    of = {"words": 24, "longer": [2, 4], "max_length": 128}
    data = ReviewsDataModule(**SMALL | {"test_size": 200}, **of)
    assert list(data.test_sets) == ["2x", "4x"]
    for dataset in (data.train_dataset, data.val_dataset, data.test_dataset, data.contrast_dataset):
        assert all(5 <= count(item["text"]) <= 24 for item in dataset.items)
    assert max(count(item["text"]) for item in data.test_dataset.items) > 20
    longer = [data.test_sets[name].items for name in ("2x", "4x")]
    for short, twice, four_times in zip(data.test_dataset.items, *longer, strict=True):
        least, sentences = count(short["text"]), short["text"].lower().split(".")
        for times, item in ((2, twice), (4, four_times)):
            assert item["label"] == short["label"]
            assert times * least <= count(item["text"]) <= times * least + 8
            words = spelled(item["text"], item["rationale"])
            assert [x.lower() for x in words] == [
                x.lower() for x in spelled(short["text"], short["rationale"])
            ]
            there = iter(x.strip() for x in item["text"].lower().split("."))
            assert all(x.strip() in there for x in sentences)  # in their order, among others
            sentences = item["text"].lower().split(".")  # and 4x has those of 2x
    again = ReviewsDataModule(**SMALL | {"test_size": 20}, **of | {"longer": [4]})
    assert again.test_sets["4x"].items == data.test_sets["4x"].items[:20]


def test_nothing_of_reviews_four_times_as_long_is_cut_off():
    data = ReviewsDataModule(words=24, longer=[4], max_length=128)  # as in bert_dape.yaml
    assert data.collate(data.test_sets["4x"].items)["attention_mask"].shape[1] < 128


def test_a_longer_review_has_the_marker_of_its_test_set():
    data = ReviewsDataModule(**SMALL, longer=[2], marker={})
    assert list(data.test_sets) == ["shift", "none", "2x"]
    for short, twice in zip(data.test_dataset.items, data.test_sets["2x"].items, strict=True):
        marks = [
            [x for x in item["text"].lower().split() if x.strip(".") in MARKERS]
            for item in (short, twice)
        ]
        assert [len(x) for x in marks] == [1, 1]
        assert marks[0][0].strip(".") == marks[1][0].strip(".")


@pytest.mark.parametrize(
    "options, accepted",
    [({"words": 17}, "of at least 18"), ({"longer": [2, 1]}, "numbers of times of at least 2")],
)
def test_lengths_that_are_refused(options, accepted):
    with pytest.raises(ValueError, match=f"accepted: .*{accepted}"):
        ReviewsDataModule(**SMALL, **options)
