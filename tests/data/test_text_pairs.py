"""Pairs of texts: two columns of a table, a query and its document, one row of tokens."""

import json

import pytest
import torch
from transformers import BertTokenizerFast

from lightning_modules.data import DATAMODULES
from lightning_modules.data.texts.batches import TextCollator, find_words
from lightning_modules.data.texts.pairs import Pair
from lightning_modules.data.texts.tokenizers import (
    input_config_of,
    tokenizer_from_config,
    train_tokenizer,
)
from lightning_modules.utils.errors import InputError

PAIRS = [Pair("a cat sat", "the cat slept well"), Pair("dogs", "run")]
TEXTS = [str(pair) for pair in PAIRS]
COLUMNS = {"text_column": "premise", "pair_column": "hypothesis"}
ROWS = [
    {"premise": "a cat sat", "hypothesis": "it ran", "label": "no", "why": [[[2, 5]], [[3, 6]]]},
    {"premise": "a dog ran", "hypothesis": "it moved", "label": "yes", "why": None},
]


def table(root, rows=ROWS, **options):
    path = root / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return DATAMODULES["text_table"](str(path), str(path), **COLUMNS | options)


def rows_of(pairs, max_length=20, tokenizer=None):
    tokenizer = tokenizer or train_tokenizer(TEXTS * 3, 200, pairs=True)
    collate = TextCollator(tokenizer, max_length)
    return tokenizer, collate.rows(pairs, [find_words(str(pair)) for pair in pairs])


def test_a_pair_is_one_row_with_a_token_between_and_types_that_tell_the_texts_apart():
    tokenizer, batch = rows_of(PAIRS)
    tokens = tokenizer.convert_ids_to_tokens(batch["input_ids"][1])
    assert tokens[:5] == ["[CLS]", "dogs", "[SEP]", "run", "[SEP]"]
    assert batch["token_type_ids"][1, :5].tolist() == [0, 0, 0, 1, 1]
    assert batch["special"][1, :5].tolist() == [True, False, True, False, True]
    assert batch["word_ids"][1, :5].tolist() == [-1, 0, -1, 1, -1]
    assert batch["text_of_row"].tolist() == [0, 1] and batch["dropped"] == [0, 0]
    for pair, text, words, start in zip(
        PAIRS, batch["text"], batch["words"], batch["second"], strict=True
    ):
        assert [text[a:b] for a, b in words] == [*pair.first.split(), *pair.second.split()]
        assert text[start:] == pair.second and Pair.at(text, start) == pair


def test_the_rows_are_those_of_berts_own_tokenizer(tmp_path):
    """Which knows a pair by its own rule, not by ours."""
    ours = train_tokenizer(TEXTS * 3, 200, pairs=True)
    path = tmp_path / "vocab.txt"
    vocabulary = sorted(ours.get_vocab(), key=ours.get_vocab().get)
    path.write_text("\n".join(vocabulary))
    theirs = BertTokenizerFast(str(path))
    expected = theirs(
        [p.first for p in PAIRS], [p.second for p in PAIRS], padding=True, return_tensors="pt",
        return_token_type_ids=True,
    )  # fmt: skip
    for tokenizer in (ours, tokenizer_from_config(input_config_of(ours, 20, None))):
        _, batch = rows_of(PAIRS, tokenizer=tokenizer)
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            torch.testing.assert_close(batch[name], expected[name])


def test_of_a_pair_that_is_too_long_the_longer_text_loses_its_end():
    long = Pair("dogs run", "the cat slept " * 8 + "well")
    _, batch = rows_of([long, PAIRS[1]], max_length=12)
    seen = set(batch["word_ids"][0].tolist()) - {-1}
    assert {0, 1} <= seen and batch["input_ids"].shape == (2, 12)
    assert batch["dropped"] == [len(batch["words"][0]) - len(seen), 0]


def test_two_columns_of_a_table_are_pairs_with_the_words_that_decide_in_each(tmp_path):
    data = table(tmp_path, rationale_column="why", max_length=16)
    batch = data.collate([data.train_dataset[0]])
    words = [batch["text"][0][a:b] for a, b in batch["words"][0]]
    assert words == ["a", "cat", "sat", "it", "ran"]
    assert [w for w, chosen in zip(words, batch["rationale"][0], strict=True) if chosen] == [
        "cat",
        "ran",
    ]
    assert data.input_config["pairs"] is True and data.class_names == ["no", "yes"]
    assert data.example() == ["--text", "a cat sat", "--text-pair", "it ran"]
    single = table(tmp_path, text_column="premise", pair_column=None)
    assert "pairs" not in single.input_config and "second" not in single.train_dataset[0]


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        (ROWS, {"pair_column": "premise"}, "pair_column.*accepted: another column"),
        (ROWS, {"rationale_column": "hypothesis"}, "pair_column.*another column than the others"),
        (ROWS, {"pair_column": "other"}, "no column 'other'; accepted: one of premise"),
        (ROWS, {"overlap": 4}, "overlap.*accepted: null with pairs of texts"),
        ([ROWS[0] | {"hypothesis": " "}], {}, "line 1: hypothesis is ' '; accepted: a text"),
        (
            [ROWS[0] | {"why": [[0, 1]]}],
            {"rationale_column": "why"},
            r"line 1: why is .*accepted: \[spans in the first text, spans in the second\]",
        ),
        (ROWS, {"max_length": 4}, "max_length.*accepted: at least 5"),
    ],
    ids=["same", "same as rationale", "none", "windows", "blank", "rationale", "short"],
)
def test_what_is_no_table_of_pairs_is_refused_in_a_line(tmp_path, rows, options, said):
    with pytest.raises((ValueError, InputError), match=said):
        table(tmp_path, rows, **options)


def test_a_tokenizer_that_puts_nothing_between_two_texts_is_refused(tmp_path):
    train_tokenizer(TEXTS * 3, 200).save_pretrained(tmp_path / "single")
    with pytest.raises(ValueError, match="tokenizer.*accepted: one that puts a token between"):
        table(tmp_path, tokenizer=str(tmp_path / "single"))


def test_the_query_of_an_annotation_is_the_first_text_of_a_pair(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "d").write_text("cats sleep a lot\n")
    evidence = {"docid": "d", "start_token": 1, "end_token": 2, "text": "sleep"}
    line = {"annotation_id": "d", "classification": "yes", "evidences": [[evidence]]}
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(line | {"query": "do they sleep"}))
    data = DATAMODULES["eraser"](str(tmp_path), with_query=True, max_length=20)
    item = data.test_dataset[0]
    assert Pair.at(item["text"], item["second"]) == Pair("do they sleep", "cats sleep a lot\n\n")
    (span,) = item["rationale"]
    assert item["text"][slice(*span)] == "sleep" and span[0] > item["second"]
    (tmp_path / "train.jsonl").write_text(json.dumps(line))
    with pytest.raises(InputError, match="train.jsonl, line 1: malformed annotation"):
        DATAMODULES["eraser"](str(tmp_path), with_query=True)
