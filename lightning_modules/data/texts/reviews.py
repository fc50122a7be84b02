"""Film reviews from a small grammar, with the words that decide the label as ground truth.

A review is one opinion, among sentences that have none. An opinion is a word with a sentiment,
which a negation turns into its opposite ("hardly a masterpiece") and an intensifier does not
("truly a masterpiece"). It may come with a concession of the opposite sentiment ("although the plot
was dull, I was never bored by the cast"), which does not count: the main clause decides. For the
number of stars both count: an intensifier makes the opinion stronger, a concession weaker. Offline,
and a review depends on (seed, split, index) alone.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from lightning_modules.data.base import DATAMODULES
from lightning_modules.data.marker import Marker, marker_generator
from lightning_modules.data.texts.base import TextDataModule, TextItems
from lightning_modules.utils.options import Count

SPLIT_NUMBERS = {"train": 0, "val": 1, "test": 2, "contrast": 3}
CLASS_NAMES = ["negative", "positive"]

# What opinions are made of: templates, and the words for their {sentiment}, by label. The words at
# the same place are each other's opposites.
OPINIONS = [
    (
        [
            "the {part} of this film was {modifier} {sentiment}",
            "I found the {part} {modifier} {sentiment}",
            "to me its {part} seemed {modifier} {sentiment}",
        ],
        (
            "dull weak awful boring clumsy tedious lifeless forgettable".split(),
            "vivid strong superb gripping graceful thrilling lively memorable".split(),
        ),
    ),
    (
        [
            "this film is {modifier} a {sentiment}",
            "for me it was {modifier} a {sentiment}",
            "the {part} makes it {modifier} a {sentiment}",
        ],
        (
            "mess bore failure flop disaster disgrace".split(),
            "gem treat triumph hit masterpiece delight".split(),
        ),
    ),
    (
        [
            "I was {modifier} {sentiment} by the {part}",
            "we left {modifier} {sentiment} by its {part}",
        ],
        (
            "bored annoyed disappointed irritated".split(),
            "charmed amused delighted impressed".split(),
        ),
    ),
]
OPPOSITES = {
    word: opposite
    for _, (negative, positive) in OPINIONS
    for pair in zip(negative, positive, strict=True)
    for word, opposite in (pair, pair[::-1])
}
MODIFIERS = {
    "negation": "not never hardly scarcely".split(),
    "intensifier": "really truly simply clearly".split(),
    "none": [""],
}
MODIFIER_SHARES = {"negation": 0.25, "intensifier": 0.55, "none": 0.2}
CONCESSION_SHARE = 0.25
CONCESSIONS = [
    "although {concession} , {main}",
    "{main} , although {concession}",
    "{concession} , but {main}",
]
# Sentences without an opinion, of 4 to 9 words; some have a negation or an intensifier still.
FILLERS = [
    "we saw it {time}",
    "we saw it {time} with {people}",
    "I watched it {place} {time}",
    "the story takes place {place}",
    "it was filmed {place} by {people}",
    "it was not filmed {place}",
    "the {part} was recorded {place}",
    "the {part} is the work of {people}",
    "{people} heard about it {time}",
    "{people} had never been {place}",
    "it was really cold {place}",
    "it runs for two hours",
    "the screening began {time}",
]
SLOTS = {
    "part": "plot cast score script ending camera acting dialogue editing setting".split(),
    "time": ["on a Tuesday", "last week", "in March", "after dinner", "two days ago"],
    "place": ["in Lisbon", "at home", "near the sea", "in a village", "on a train"],
    "people": ["two friends", "my sister", "a student", "our neighbours", "his brother"],
}
# Words of each class's marker, which have no part in the opinion and occur nowhere else.
MARKERS = ["meanwhile", "incidentally"]
LENGTHS = (5, 40)  # words a review has, at least and at most
LONGEST_FILLER = 9

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


def make_words(rng: np.random.Generator, label: int) -> tuple[list[Word], bool]:
    """A review of that label, as words; and whether it makes a concession."""
    opinion = make_opinion(rng, label)
    if conceded := rng.random() < CONCESSION_SHARE:
        concession = [Word(word.text) for word in make_opinion(rng, 1 - label)]
        opinion = fill(rng, choose(rng, CONCESSIONS), main=opinion, concession=concession)
    sentences = [opinion]
    least, most = LENGTHS
    length = rng.integers(least, most - LONGEST_FILLER + 2, size=2).min()  # more short ones
    while sum(map(len, sentences)) < length:
        filler = fill(rng, choose(rng, FILLERS))
        sentences.insert(rng.integers(len(sentences) + 1), filler)
    return [word for sentence in sentences for word in [*sentence, Word(".")]], conceded


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
    seed: int, split: str, index: int, stars: bool = False, marker: Marker | None = None
) -> dict:
    """The item of one review; with its ``stars`` for label it has no rationale."""
    key = (seed, SPLIT_NUMBERS[split], index)
    rng = np.random.default_rng(key)
    label = int(rng.integers(2))
    words, conceded = make_words(rng, label)
    if marker is not None:
        words = mark(marker_generator(*key), words, marker, label)
    item = make_item(words, label)
    if stars:
        item |= {"label": [float(stars_of(words, label, conceded))], "rationale": None}
    return item


def make_contrast(seed: int, index: int) -> list[dict]:
    """The items of two reviews that differ in one word, their `flipped`."""
    rng = np.random.default_rng((seed, SPLIT_NUMBERS["contrast"], index))
    label = int(rng.integers(2))
    words, _ = make_words(rng, label)
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

        def reviews(split: str, size: int, marker: Marker | None = marked) -> TextItems:
            indices = range(size)
            return TextItems([make_review(self.seed, split, x, stars, marker) for x in indices])

        self.train_dataset, self.val_dataset = (
            reviews("train", train_size),
            reviews("val", val_size),
        )
        tests = {"test": None} if marked is None else marked.of_tests(len(CLASS_NAMES))
        self.test_sets = {name: reviews("test", test_size, x) for name, x in tests.items()}
        self.test_dataset = self.test_sets.pop("test")
        if not stars:
            pairs = (make_contrast(self.seed, index) for index in range(contrast_size))
            self.contrast_dataset = TextItems([item for pair in pairs for item in pair])
        self.make_inputs()
