"""Film reviews from a small grammar, with the words that decide the label as ground truth.

A review is one opinion, among sentences that have none. An opinion is a word with a sentiment,
which a negation turns into its opposite ("hardly a masterpiece") and an intensifier does not
("truly a masterpiece"). It may come with a concession of the opposite sentiment ("although the plot
was dull, I was never bored by the cast"), which does not count: the main clause decides. For the
number of stars both count: an intensifier makes the opinion stronger, a concession weaker. Offline,
and a review depends on (seed, split, index) and the longest length alone.
"""

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np

from lightning_modules.data.base import DATAMODULES
from lightning_modules.data.marker import Marker, marker_generator
from lightning_modules.data.texts.base import TextDataModule, TextItems
from lightning_modules.data.texts.review_words import (
    CONCESSION_SHARE,
    CONCESSIONS,
    FILLERS,
    MARKERS,
    MODIFIER_SHARES,
    MODIFIERS,
    OPINIONS,
    OPPOSITES,
    SLOTS,
)
from lightning_modules.utils.options import Count, Range, check_option

SPLIT_NUMBERS = {"train": 0, "val": 1, "test": 2, "contrast": 3}
CLASS_NAMES = ["negative", "positive"]

LENGTHS = (5, 40)  # words a review has, at least and, unless asked for fewer, at most
LONGEST_FILLER = 9
LONGEST_OPINION = 18  # two clauses of 8 words, and what joins them
LONGER = 2  # stream of random numbers of what makes a review longer

Choice = TypeVar("Choice")


class Word(NamedTuple):
    """A word or a punctuation mark, and its part in the opinion that decides."""

    text: str
    role: str = ""  # "sentiment", "negation", "intensifier"; "": none


def choose(rng: np.random.Generator, options: Sequence[Choice]) -> Choice:
    return options[rng.integers(len(options))]


def fill(rng: np.random.Generator, template: str, **clauses: list[Word]) -> list[Word]:
    """The words of a template, its slots filled with the clauses given, or else from SLOTS."""
    words = []
    for part in template.split():
        name = part.strip("{}")
        if part == name:
            words.append(Word(part))
        elif name in clauses:
            words += clauses[name]
        else:
            words += map(Word, choose(rng, SLOTS[name]).split())
    return words


def make_opinion(rng: np.random.Generator, label: int) -> list[Word]:
    """A clause that says what the label says."""
    templates, sentiments = choose(rng, OPINIONS)
    role = rng.choice(list(MODIFIER_SHARES), p=list(MODIFIER_SHARES.values()))
    modifier = choose(rng, MODIFIERS[role])
    sentiment = choose(rng, sentiments[1 - label if role == "negation" else label])
    return fill(
        rng,
        choose(rng, templates),
        modifier=[Word(modifier, str(role))] if modifier else [],
        sentiment=[Word(sentiment, "sentiment")],
    )


def make_sentences(
    rng: np.random.Generator, label: int, most: int
) -> tuple[list[list[Word]], bool]:
    """A review of that label, of ``most`` words at most; and whether it makes a concession."""
    opinion = make_opinion(rng, label)
    if conceded := rng.random() < CONCESSION_SHARE:
        concession = [Word(word.text) for word in make_opinion(rng, 1 - label)]
        opinion = fill(rng, choose(rng, CONCESSIONS), main=opinion, concession=concession)
    sentences = [opinion]
    length = rng.integers(LENGTHS[0], most - LONGEST_FILLER + 2, size=2).min()  # more short ones
    lengthen(rng, sentences, length)
    return sentences, conceded


def lengthen(rng: np.random.Generator, sentences: list[list[Word]], length: int) -> None:
    """Put sentences without an opinion among others, until there are ``length`` words."""
    while sum(map(len, sentences)) < length:
        filler = fill(rng, choose(rng, FILLERS))
        sentences.insert(rng.integers(len(sentences) + 1), filler)


def joined(sentences: list[list[Word]]) -> list[Word]:
    return [word for sentence in sentences for word in [*sentence, Word(".")]]


def mark(rng: np.random.Generator, words: list[Word], marker: Marker, label: int) -> list[Word]:
    """The review with a marker, if it is to have one, where a sentence begins or ends."""
    ends = [index for index, word in enumerate(words) if word.text == "."]
    place = choose(rng, [0, *ends, *(end + 1 for end in ends[:-1])])
    of_class = marker.draw(rng, label, len(MARKERS))
    return words if of_class is None else [*words[:place], Word(MARKERS[of_class]), *words[place:]]


def stars_of(words: list[Word], label: int, conceded: bool) -> int:
    """2 or 4; one further from 3 with an intensifier, and one nearer with a concession."""
    strength = 1 + any(word.role == "intensifier" for word in words) - conceded
    return 3 + strength if label else 3 - strength


def flip(rng: np.random.Generator, words: list[Word]) -> tuple[list[Word], int]:
    """The review with one word exchanged, so that its label is the other; and which word."""
    index = choose(rng, [index for index, word in enumerate(words) if word.role])
    text, role = words[index]
    if role == "sentiment":
        exchanged = Word(OPPOSITES[text], role)
    else:
        role = "intensifier" if role == "negation" else "negation"
        exchanged = Word(choose(rng, MODIFIERS[role]), role)
    return [*words[:index], exchanged, *words[index + 1 :]], index


def make_item(words: list[Word], label: int, flipped: int | None = None) -> dict:
    """The words as an item (see TextDataModule); `flipped` is the number of a contrast's word."""
    item = {"text": "", "label": label, "rationale": []}
    for index, (word, role) in enumerate(words):
        text = item["text"]
        if not text or text.endswith("."):
            word = word[0].upper() + word[1:]
        if text and word not in {".", ","}:
            text += " "
        span = (len(text), len(text) + len(word))
        if role in {"sentiment", "negation"}:
            item["rationale"].append(span)
        if index == flipped:
            item["flipped"] = span
        item["text"] = text + word
    return item


def make_review(
    seed: int,
    split: str,
    index: int,
    stars: bool = False,
    marker: Marker | None = None,
    most: int = LENGTHS[1],
    times: int = 1,
) -> dict:
    """The item of one review; with its ``stars`` for label it has no rationale.

    ``most``: words at most, before it is made ``times`` as long.
    """
    key = (seed, SPLIT_NUMBERS[split], index)
    rng = np.random.default_rng(key)
    label = int(rng.integers(2))
    sentences, conceded = make_sentences(rng, label, most)
    if times > 1:
        length = times * sum(map(len, sentences))
        lengthen(np.random.default_rng((*key, LONGER)), sentences, length)
    words = joined(sentences)
    if marker is not None:
        words = mark(marker_generator(*key), words, marker, label)
    item = make_item(words, label)
    if stars:
        item |= {"label": [float(stars_of(words, label, conceded))], "rationale": None}
    return item


def make_contrast(seed: int, index: int, most: int = LENGTHS[1]) -> list[dict]:
    """The items of two reviews that differ in one word, their `flipped`."""
    rng = np.random.default_rng((seed, SPLIT_NUMBERS["contrast"], index))
    label = int(rng.integers(2))
    words = joined(make_sentences(rng, label, most)[0])
    other, flipped = flip(rng, words)
    return [make_item(words, label, flipped), make_item(other, 1 - label, flipped)]


@DATAMODULES.register("reviews")
class ReviewsDataModule(TextDataModule):
    """Reviews from a grammar, negative or positive; the rationale is the word with the sentiment
    that decides and its negation, if any.

    With the task ``regression`` their label is a number of stars, 1 to 5, without a rationale: the
    map of a number shows what raises it, and low numbers have their reasons, too.

    Args:
        train_size: reviews in train, the same in every epoch.
        val_size: reviews in val.
        test_size: reviews in test.
        contrast_size: pairs of reviews in the contrast set, which has twice as many items. They
            have no marker.
        marker: options of :class:`.marker.Marker`: a share of the reviews has a word of a class
            that says nothing. It is in no rationale. None: there are none.
        words: words a review has at most, commas among them.
        longer: numbers of times, as ``[2, 4]``: the test reviews made that many times as long by
            sentences without an opinion, or up to 8 words longer, are the test sets ``2x``
            and ``4x``. Each has the sentences of the shorter ones and more.
        options: those of TextDataModule.

    Raises:
        ValueError: an argument is out of its range, or there is no such tokenizer.
    """

    tasks = ("multiclass", "regression")

    def __init__(
        self,
        *,
        train_size: Count = 4000,
        val_size: Count = 500,
        test_size: Count = 500,
        contrast_size: Count = 200,
        marker: dict[str, Any] | None = None,
        words: Annotated[int, Range(LONGEST_OPINION)] = LENGTHS[1],
        longer: list[int] | None = None,
        batch_size: Count = 64,
        vocab_size: int = 1000,
        max_length: int = 64,
        **options,
    ) -> None:
        super().__init__(
            batch_size=batch_size, vocab_size=vocab_size, max_length=max_length, **options
        )
        stars = self.task == "regression"
        self.class_names = ["stars"] if stars else CLASS_NAMES
        marked = Marker.of(marker, self.task)

        for times in longer or ():
            check_option("longer", longer, times > 1, "numbers of times of at least 2")

        def reviews(
            split: str, size: int, marker: Marker | None = marked, times: int = 1
        ) -> TextItems:
            given = (stars, marker, words, times)
            return TextItems([make_review(self.seed, split, x, *given) for x in range(size)])

        self.train_dataset, self.val_dataset = (
            reviews("train", train_size),
            reviews("val", val_size),
        )
        tests = {"test": None} if marked is None else marked.of_tests(len(CLASS_NAMES))
        self.test_sets = {name: reviews("test", test_size, x) for name, x in tests.items()}
        self.test_sets |= {
            f"{times}x": reviews("test", test_size, tests["test"], times) for times in longer or ()
        }
        self.test_dataset = self.test_sets.pop("test")
        if not stars:
            pairs = (make_contrast(self.seed, index, words) for index in range(contrast_size))
            self.contrast_dataset = TextItems([item for pair in pairs for item in pair])
        self.make_inputs()
