"""Words, tokenizers, and the batches they become."""

import itertools
import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import CanineTokenizer, PreTrainedTokenizerFast

from lightning_modules.data import (
    ReviewsDataModule,
    TextCollator,
    TextTableDataModule,
    tokenizer_from_config,
)
from lightning_modules.data.texts.batches import find_words, overlapping, words_of_tokens
from lightning_modules.data.texts.tokenizers import train_tokenizer
from tests.helpers.samples import SMALL, item, spelled

TEXTS = ["A film; never dull, always moving.", "Ein müder Film", "I (really) liked it!!"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, vocab_size=80)


@pytest.fixture(scope="module")
def reviews() -> ReviewsDataModule:
    return ReviewsDataModule(**SMALL)


def test_words_are_what_stands_between_white_space():
    text = " It\u00a0was, \n never\tdull. "
    assert spelled(text, find_words(text)) == text.split()
    assert find_words(" \n ") == []


def test_a_rationale_marks_the_words_that_it_overlaps():
    words = find_words("a bb ccc dddd")  # (0, 1), (2, 4), (5, 8), (9, 13)
    assert overlapping(words, [(3, 6)]).tolist() == [False, True, True, False]
    assert overlapping(words, [(4, 5), (1, 2)]).tolist() == [False] * 4  # the white space alone
    assert overlapping(words, []).tolist() == [False] * 4
    assert overlapping([], [(0, 1)]).tolist() == []


def test_a_token_is_of_the_word_that_it_overlaps():
    words = find_words("ab  cde")  # (0, 2), (4, 7)
    offsets = [(0, 0), (0, 1), (1, 2), (2, 3), (3, 5), (5, 7), (7, 7)]
    assert words_of_tokens(np.array(offsets), words).tolist() == [-1, 0, 0, -1, 1, 1, -1]
    assert words_of_tokens(np.array(offsets), []).tolist() == [-1] * 7


def test_a_batch(tokenizer):
    items = [
        item("Never dull, always", 1, [(0, 10)], flipped=(6, 10)),
        item("(dull) film", 0, [], flipped=(7, 11)),
    ]
    batch = TextCollator(tokenizer, 64)(items)
    lengths = batch["attention_mask"].sum(dim=1)
    shape = (2, int(lengths.max()))
    for name, dtype in {
        "input_ids": torch.long,
        "attention_mask": torch.long,
        "special": torch.bool,
        "word_ids": torch.long,
    }.items():
        assert batch[name].shape == shape and batch[name].dtype == dtype, name
    assert batch["label"].tolist() == [1, 0] and batch["label"].dtype == torch.long
    assert batch["rationale"].tolist() == [[True, True, False], [False, False, False]]
    assert batch["flipped_word"].tolist() == [1, 1]
    assert batch["words"] == [[(0, 5), (6, 11), (12, 18)], [(0, 6), (7, 11)]]
    assert batch["text"] == [entry["text"] for entry in items]
    assert batch["dropped"] == [0, 0]
    assert lengths[1] < lengths[0]
    for row, entry in enumerate(items):
        tokens = tokenizer.convert_ids_to_tokens(batch["input_ids"][row])
        special = [token in ("[CLS]", "[SEP]", "[PAD]") for token in tokens]
        assert batch["special"][row].tolist() == special
        assert (batch["word_ids"][row] == -1).tolist() == special
        assert (batch["input_ids"][row] == tokenizer.pad_token_id).tolist() == (
            (batch["attention_mask"][row] == 0).tolist()
        )
        # The pieces of a word spell it.
        for number, word in enumerate(entry["text"].lower().split()):
            pieces = [tokens[i] for i in (batch["word_ids"][row] == number).nonzero()]
            assert "".join(piece.removeprefix("##") for piece in pieces) == word


def test_a_batch_tells_which_of_its_items_have_no_rationale(tokenizer):
    collate, known = TextCollator(tokenizer, 64), item("a film", rationale=[(2, 6)])
    batch = collate([item("a dull film"), known, item("a film", rationale=[])])
    assert batch["has_rationale"].tolist() == [False, True, True]
    assert batch["has_rationale"].dtype == torch.bool
    assert batch["rationale"].tolist() == [[False] * 3, [False, True, False], [False] * 3]
    assert "has_rationale" not in collate([known]) and "flipped_word" not in batch
    assert not {"rationale", "has_rationale"} & collate([item("a film")]).keys()


def test_truncation_keeps_sep_and_counts_the_words_that_lost_a_piece(tokenizer):
    text = "dull moving dull"
    tokens = tokenizer.tokenize(text)
    pieces_of_moving = len(tokenizer.tokenize("moving"))
    pieces_of_dull = len(tokenizer.tokenize("dull"))
    assert pieces_of_moving > 1  # else nothing can be cut in the middle
    for max_length in range(3, len(tokens) + 3):
        batch = TextCollator(tokenizer, max_length)([item(text, rationale=[(5, 11)])])
        room = max_length - 2
        fit = (pieces_of_dull, pieces_of_dull + pieces_of_moving, len(tokens))
        assert batch["dropped"] == [sum(last > room for last in fit)]
        assert batch["input_ids"].shape == (1, min(len(tokens), room) + 2)
        assert batch["input_ids"][0, -1] == tokenizer.sep_token_id
        assert batch["word_ids"][0, -1] == -1
        assert batch["words"] == [find_words(text)]  # all words, truncated or not
        assert batch["rationale"].tolist() == [[False, True, False]]


def test_only_the_texts_that_are_too_long_are_truncated(tokenizer):
    items = [item("film " * 3), item("film " * 200), item("film " * 2), item("film " * 90)]
    batch = TextCollator(tokenizer, 6)(items)
    assert batch["input_ids"].shape[0] == 4
    pieces = len(tokenizer.tokenize("film"))
    whole = 4 // pieces
    assert batch["dropped"] == [max(words - whole, 0) for words in (3, 200, 2, 90)]


def test_a_text_without_words_is_special_tokens_alone(tokenizer):
    for text in ("", " \n"):
        batch = TextCollator(tokenizer, 8)([item(text, rationale=[])])
        assert batch["special"].tolist() == [[True, True]]
        assert batch["rationale"].shape == (1, 0) and batch["words"] == [[]]
    batch = TextCollator(tokenizer, 8)([item("", rationale=[]), item("a", rationale=[(0, 1)])])
    assert batch["rationale"].tolist() == [[False], [True]]


def test_a_sample_does_not_depend_on_its_batch(reviews):
    items = [reviews.val_dataset[index] for index in range(12)]
    together = reviews.collate(items)
    for row, entry in enumerate(items):
        alone = reviews.collate([entry])
        tokens, words = alone["input_ids"].shape[1], alone["rationale"].shape[1]
        for name in ("input_ids", "attention_mask", "special", "word_ids"):
            assert torch.equal(together[name][row, :tokens], alone[name][0]), name
        assert together["special"][row, tokens:].all()
        assert not together["attention_mask"][row, tokens:].any()
        assert torch.equal(together["rationale"][row, :words], alone["rationale"][0])
        assert not together["rationale"][row, words:].any()


def test_a_byte_level_tokenizer_finds_its_words_too(tmp_path):
    """Like RoBERTa's, whose pieces may begin with the white space before their word."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: number for number, token in enumerate(["<s>", "<pad>", "</s>", *alphabet])}
    backend = Tokenizer(models.BPE(vocab, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", cls_token="<s>", sep_token="</s>"
    ).save_pretrained(tmp_path)
    path = tmp_path / "table.jsonl"
    path.write_text(json.dumps({"text": "é  ab", "label": "x"}))
    data = TextTableDataModule(str(path), str(path), tokenizer=str(tmp_path))
    batch = data.collate([data.val_dataset[0]])
    assert batch["word_ids"].tolist() == [[0, 0, -1, -1, 1, 1]]  # é is two bytes
    assert "token_type_ids" not in batch


def test_a_tokenizer_survives_a_checkpoint(reviews, tmp_path):
    torch.save(reviews.input_config, tmp_path / "config.pt")
    config = torch.load(tmp_path / "config.pt", weights_only=True)
    assert json.loads(json.dumps(config)) == reviews.input_config
    rebuilt = tokenizer_from_config(config)
    items = [reviews.test_dataset[index] for index in range(20)]
    before, after = reviews.collate(items), TextCollator(rebuilt, config["max_length"])(items)
    assert before.keys() == after.keys()
    for name, value in before.items():
        same = torch.equal(value, after[name]) if torch.is_tensor(value) else value == after[name]
        assert same, name
    assert rebuilt.mask_token == "[MASK]" and rebuilt.pad_token_id == 0


def test_the_same_texts_give_the_same_tokenizer():
    """The trainer of `tokenizers` alone gives other ids each time, also within a process."""
    trained = {train_tokenizer(TEXTS, 80).backend_tokenizer.to_str() for _ in range(5)}
    assert len(trained) == 1


def test_a_trained_tokenizer_is_like_berts(tokenizer):
    assert len(tokenizer) <= 80
    assert tokenizer.tokenize("FILM, Müder") == tokenizer.tokenize("film , muder")
    assert tokenizer.convert_ids_to_tokens(tokenizer("q")["input_ids"]) == (
        ["[CLS]", "[UNK]", "[SEP]"]
    )
    pieces = set(itertools.chain(*map(tokenizer.tokenize, TEXTS)))
    assert "[UNK]" not in pieces
    assert any(piece.startswith("##") for piece in pieces)
    assert tokenizer.all_special_tokens == ["[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"]


def test_a_saved_tokenizer_is_taken_as_it_is(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    data = ReviewsDataModule(**SMALL, tokenizer=str(tmp_path))
    assert data.collate.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert data.input_config["special_tokens"]["cls_token"] == "[CLS]"


def test_what_a_tokenizer_must_be(tokenizer, tmp_path):
    with pytest.raises(ValueError, match='tokenizer: "nowhere/at/all" is not accepted.*hub id'):
        ReviewsDataModule(**SMALL, tokenizer="nowhere/at/all")
    CanineTokenizer().save_pretrained(tmp_path / "slow")
    with pytest.raises(ValueError, match="is not accepted; accepted: .* a fast tokenizer"):
        ReviewsDataModule(**SMALL, tokenizer=str(tmp_path / "slow"))
    tokenizer.save_pretrained(tmp_path / "short")
    settings = tmp_path / "short" / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"model_max_length": 16}))
    with pytest.raises(ValueError, match="max_length: 17 .*at most 16"):
        ReviewsDataModule(**SMALL, tokenizer=str(tmp_path / "short"), max_length=17)


@pytest.mark.parametrize(
    ("option", "accepted"),
    [
        ({"vocab_size": 20}, "at least [0-9]+, for the special tokens and the characters"),
        ({"max_length": 2}, "at least 3"),
        ({"batch_size": 0}, "int of at least 1"),
        ({"train_size": 0}, "int of at least 1"),
        ({"contrast_size": 0}, "int of at least 1"),
        ({"num_workers": -1}, "int of at least 0"),
    ],
)
def test_options_out_of_range(option, accepted):
    (name,) = option
    with pytest.raises(ValueError, match=f"^{name}: .* is not accepted; accepted: {accepted}"):
        ReviewsDataModule(**(SMALL | option))
