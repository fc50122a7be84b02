"""What the text data sets share: their items, the order of their batches, their tokenizer."""

import itertools
import textwrap

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from lightning_modules.data.base import DataModule, option_of, say_if_few
from lightning_modules.data.sampling import EpochSampler, epoch_and_index
from lightning_modules.data.texts.batches import TextCollator, content_of
from lightning_modules.data.texts.pairs import Pair
from lightning_modules.data.texts.tokenizers import (
    input_config_of,
    load_tokenizer,
    tokenizer_from_config,
    train_tokenizer,
)
from lightning_modules.utils.options import check_option
from lightning_modules.utils.terminal import counted

POOL = 50  # batches whose texts are sorted by length together
EXAMPLE = 100  # characters of a text in a command


class TextItems(Dataset):
    """Texts in memory; an item is the same in every epoch.

    Args:
        items: see TextDataModule.
    """

    def __init__(self, items: list[dict]) -> None:
        self.items = items

    @property
    def labels(self) -> list:
        known = getattr(self.items, "labels", None)  # without the texts, which may be on disk
        return [item["label"] for item in self.items] if known is None else known

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        _, index = epoch_and_index(key)
        return self.items[index]


class LengthSampler(EpochSampler):
    """EpochSampler, its order rearranged so that a batch holds texts of about the same number of
    words: less padding to compute on.

    The samples of POOL batches at a time are sorted by length and cut into batches, and all
    batches are shuffled, by (seed, epoch) alone. A loader cuts the same batches out of this order.
    The partial batch comes last, and is a random one, so that to drop it does not drop long texts.

    Args:
        dataset: the training set.
        seed: of the order.
        batch_size: the loader's.
        weights, num_replicas, rank: see EpochSampler.
    """

    def __init__(
        self,
        dataset: TextItems,
        seed: int,
        batch_size: int,
        weights: Tensor | None = None,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        super().__init__(dataset, seed, weights, num_replicas, rank)
        self.batch_size = batch_size
        self.lengths = [len(item["text"].split()) for item in dataset.items]

    def order(self) -> list[int]:
        order = super().order()
        partial = len(order) - len(order) % self.batch_size
        batches = []
        for pool in _chunks(order[:partial], POOL * self.batch_size):
            pool.sort(key=lambda index: self.lengths[index])
            batches += _chunks(pool, self.batch_size)
        # The same for all ranks: their batches of one step are then about equally long, and no
        # rank waits for another.
        np.random.default_rng((self.seed, self.epoch)).shuffle(batches)
        return [*itertools.chain(*batches), *order[partial:]]


def with_rationale(dataset: TextItems) -> int:
    """How many texts have a rationale of some words."""
    return sum(bool(item["rationale"]) for item in dataset.items)


def shortened(text: str) -> str:
    """The first words of a text."""
    return textwrap.shorten(text, EXAMPLE, placeholder="") or text[:EXAMPLE]


def _chunks(values: list, size: int) -> list[list]:
    return [values[start : start + size] for start in range(0, len(values), size)]


class TextDataModule(DataModule):
    """A data set of texts.

    Items are dicts of plain values, batched by a TextCollator:
        text: str; of a pair of texts both, as a Pair writes them
        second: int, where the second of a pair begins in `text`; only of pairs
        label: as the task has it: an int, an index into `class_names`; or a list of C floats
        rationale: list of the (start, end) of the characters that decide the label; None where
            the data has none

    Attributes:
        input_config: how a text becomes an input: `tokenizer` (a fast tokenizer's JSON),
            `special_tokens` (name to token, as `cls_token` to "[CLS]"), `max_length`, `overlap`;
            and `pairs`, True, where texts are pairs.
        train_dataset, val_dataset, test_dataset: see DataModule.
        contrast_dataset: pairs of texts, items 2i and 2i + 1, that differ in one word, which flips
            the label; an item's `flipped` is that word's (start, end). None where there are none.
        collate: the TextCollator of the loaders.

    Args:
        tokenizer: hub id or local folder of a fast tokenizer. None: one is trained on train.
        vocab_size: pieces that a trained tokenizer has at most.
        max_length: tokens at most, special ones included.
        overlap: of a longer text, explain and classify all, in windows of `max_length` tokens
            that share this many with the one before. None: it loses its end. Not of pairs.
        options: those of DataModule.
    """

    contrast_dataset: TextItems | None = None
    collate: TextCollator

    def __init__(
        self,
        *,
        tokenizer: str | None = None,
        vocab_size: int = 8000,
        max_length: int = 128,
        overlap: int | None = None,
        **options,
    ) -> None:
        super().__init__(**options)
        self._inputs = tokenizer, vocab_size, max_length, overlap

    def make_inputs(self) -> None:
        """Sets `input_config` and `collate`; for the subclass's constructor, once it has its items.

        Raises:
            ValueError: an argument is out of its range, or there is no such tokenizer.
        """
        tokenizer, vocab_size, max_length, overlap = self._inputs
        self.tokenizer_is_trained = tokenizer is None
        pairs = "second" in self.train_dataset.items[0]
        if tokenizer is None:
            texts = (item["text"] for item in self.train_dataset.items)
            chosen = train_tokenizer(texts, vocab_size, pairs)
        else:
            chosen = load_tokenizer(tokenizer)
        special = chosen.num_special_tokens_to_add(pair=pairs)
        parted = not pairs or special > chosen.num_special_tokens_to_add()
        check_option("tokenizer", tokenizer, parted, "one that puts a token between two texts")
        least = special + 1 + pairs
        most = chosen.model_max_length
        check_option("max_length", max_length, max_length >= least, f"at least {least}")
        check_option("max_length", max_length, max_length <= most, f"at most {most}, its model's")
        room = max_length - least
        fits = overlap is None or 0 <= overlap <= room
        check_option("overlap", overlap, fits, f"null, or 0 to {room} with this max_length")
        check_option("overlap", overlap, not pairs or overlap is None, "null with pairs of texts")
        self.input_config = input_config_of(chosen, max_length, overlap)
        if pairs:
            self.input_config["pairs"] = True
        self._make_collator()

    def _make_collator(self) -> None:
        config = self.input_config
        tokenizer = tokenizer_from_config(config)
        self.collate = TextCollator(tokenizer, config["max_length"], config["overlap"])

    def take_inputs(self, input_config: dict) -> None:
        """Keep the tokenizer of a run that is resumed where this one was trained on the texts.

        Texts that were added since would make it another, and every embedding that of another
        piece.
        """
        if self.tokenizer_is_trained:
            mine = ("tokenizer", "special_tokens")
            self.input_config = self.input_config | {name: input_config[name] for name in mine}
            self._make_collator()

    def annotated(self, dataset: TextItems) -> str:
        count = with_rationale(dataset)
        return counted(count, "rationale") if count else ""

    def mask_train(self, instead: str = "guidance=null") -> None:
        count = with_rationale(self.train_dataset)
        if not count:
            super().mask_train(instead)
        say_if_few(count, self.train_dataset, "rationale", option_of(instead))

    def example(self) -> list[str]:
        plain = (x for x in self.test_dataset.items if x["text"][:1].isalnum())
        content = content_of(next(plain, {"text": "TEXT"}))
        if isinstance(content, Pair):
            return ["--text", shortened(content.first), "--text-pair", shortened(content.second)]
        return ["--text", shortened(content)]

    def train_sampler(self) -> LengthSampler:
        """The order of the training texts: in batches of similar length."""
        weights = self.sample_weights()
        return LengthSampler(self.train_dataset, self.seed, self.batch_size, weights)
