"""lightning_modules/data, the text half: items, words, tokenizers, batches, files."""

import itertools
import json
import os
import pickle
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import CanineTokenizer, PreTrainedTokenizerFast

from lightning_modules.data import (
    DATAMODULES,
    EraserDataModule,
    ReviewsDataModule,
    SSTDataModule,
    TextCollator,
    TextTableDataModule,
    tokenizer_from_config,
)
from lightning_modules.data.reviews import MODIFIERS, OPPOSITES, make_contrast, make_review
from lightning_modules.data.text import LengthSampler, TextItems
from lightning_modules.data.text_batches import find_words, overlapping, words_of_tokens
from lightning_modules.data.text_tokenizers import train_tokenizer
from lightning_modules.errors import InputError

torch.set_num_threads(1)

SHARED = Path(os.environ.get("SHARED_DATA", Path(__file__).parents[2] / "shared"))
SMALL = dict(batch_size=8, train_size=60, val_size=20, test_size=20, contrast_size=10)
TEXTS = ["A film; never dull, always moving.", "Ein müder Film", "I (really) liked it!!"]


def item(text: str, label: int = 0, rationale=None, **more) -> dict:
    return {"text": text, "label": label, "rationale": rationale, **more}


def spelled(text: str, spans) -> list[str]:
    return [text[start:end] for start, end in spans]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, vocab_size=80)


@pytest.fixture(scope="module")
def reviews() -> ReviewsDataModule:
    return ReviewsDataModule(**SMALL)


# Words.


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


# Batches.


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


def test_a_batch_has_a_rationale_only_if_all_of_its_items_have(tokenizer):
    batch = TextCollator(tokenizer, 64)([item("a film", rationale=[]), item("a film")])
    assert "rationale" not in batch and "flipped_word" not in batch


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


# Tokenizers.


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
    with pytest.raises(ValueError, match="tokenizer='nowhere/at/all' is not accepted.*hub id"):
        ReviewsDataModule(**SMALL, tokenizer="nowhere/at/all")
    CanineTokenizer().save_pretrained(tmp_path / "slow")
    with pytest.raises(ValueError, match="is not accepted: .* a fast tokenizer"):
        ReviewsDataModule(**SMALL, tokenizer=str(tmp_path / "slow"))
    tokenizer.save_pretrained(tmp_path / "short")
    settings = tmp_path / "short" / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"model_max_length": 16}))
    with pytest.raises(ValueError, match="max_length=17 .*at most 16"):
        ReviewsDataModule(**SMALL, tokenizer=str(tmp_path / "short"), max_length=17)


@pytest.mark.parametrize(
    ("option", "accepted"),
    [
        ({"vocab_size": 20}, "at least [0-9]+, for the special tokens and the characters"),
        ({"max_length": 2}, "at least 3"),
        ({"batch_size": 0}, "at least 1"),
        ({"train_size": 0}, "at least 1"),
        ({"contrast_size": 0}, "at least 1"),
        ({"num_workers": -1}, "at least 0"),
    ],
)
def test_options_out_of_range(option, accepted):
    (name,) = option
    with pytest.raises(ValueError, match=f"{name}=.* is not accepted: {name} must be {accepted}"):
        ReviewsDataModule(**(SMALL | option))


# The order of the samples.


def sampler(size: int = 1003, batch_size: int = 10, **replica) -> LengthSampler:
    rng = np.random.default_rng(0)
    items = [item("word " * length) for length in rng.integers(1, 100, size)]
    return LengthSampler(TextItems(items), 0, batch_size, **replica)


def lengths(order: list[tuple[int, int]], sampler: LengthSampler) -> torch.Tensor:
    """Words of the texts of every whole batch: [batches, batch_size]."""
    whole = len(order) - len(order) % sampler.batch_size
    values = [sampler.lengths[index] for _, index in order[:whole]]
    return torch.tensor(values, dtype=torch.float).view(-1, sampler.batch_size)


def test_an_epoch_has_every_sample_once_in_batches_of_similar_length():
    order = list(sampler())
    assert sorted(index for _, index in order) == list(range(1003))
    of_batches = lengths(order, sampler())
    spread = (of_batches.amax(dim=1) - of_batches.amin(dim=1)).mean()
    assert spread < 5  # of 99; in a random order it is about 81
    means = of_batches.mean(dim=1)
    assert (means[1:] < means[:-1]).float().mean().item() == pytest.approx(0.5, abs=0.15)


def test_the_partial_batch_is_a_random_one():
    """It is dropped, and that should not hit the long texts each time."""
    values = []
    for epoch in range(60):
        one = sampler()
        one.set_epoch(epoch)
        values += [one.lengths[index] for _, index in list(one)[-3:]]
    assert np.mean(values) == pytest.approx(50, abs=10)


def test_the_order_depends_on_seed_and_epoch_alone():
    first, again, later = sampler(), sampler(), sampler()
    later.set_epoch(1)
    assert list(first) == list(again) == list(first)
    assert {epoch for epoch, _ in later} == {1}
    assert [index for _, index in first] != [index for _, index in later]
    other_seed = LengthSampler(first.dataset, 1, 10)
    assert list(other_seed) != list(first)


def test_replicas_share_an_epoch_and_have_equally_many_batches_of_equal_length():
    ranks = [sampler(num_replicas=3, rank=rank) for rank in range(3)]
    orders = [list(rank) for rank in ranks]
    assert {len(order) for order in orders} == {335}  # 1003 / 3, rounded up
    seen = sorted(index for order in orders for _, index in order)
    assert sorted(set(seen)) == list(range(1003)) and len(seen) == 1005
    means = torch.stack([lengths(order, ranks[0]).mean(dim=1) for order in orders])
    assert (means.amax(dim=0) - means.amin(dim=0)).mean() < 10  # else they wait for the slowest


class Recorder(lightning.LightningModule):
    """Learns nothing; keeps the texts of every training batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.epochs: list[list[list[str]]] = []

    def on_train_epoch_start(self) -> None:
        self.epochs.append([])

    def training_step(self, batch, batch_idx):
        self.epochs[-1].append(batch["text"])
        return self.weight * batch["label"].float().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(data, epochs: int, **options) -> list[list[list[str]]]:
    module = Recorder()
    lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    ).fit(module, datamodule=data)
    return module.epochs


def test_lightning_tells_the_sampler_the_epoch(reviews):
    first, second = fit(reviews, 2)
    assert first != second
    assert len(first) == len(second) == 60 // 8  # without the partial batch
    expected = LengthSampler(reviews.train_dataset, 0, 8)
    for epoch, batches in enumerate((first, second)):
        expected.set_epoch(epoch)
        texts = [reviews.train_dataset[key]["text"] for key in expected]
        assert list(itertools.chain(*batches)) == texts[:56]


def test_overfit_batches_repeats_the_same_texts(reviews):
    first, second = fit(reviews, 2, overfit_batches=2)
    assert first == second and len(first) == 2


def test_workers_change_nothing(reviews):
    with_workers = ReviewsDataModule(**SMALL, num_workers=2)
    for ours, theirs in (
        (reviews.train_dataloader(), with_workers.train_dataloader()),
        (reviews.val_dataloader(), with_workers.val_dataloader()),
    ):
        state = torch.get_rng_state()
        for batch, other in zip(ours, theirs, strict=True):
            assert batch["text"] == other["text"] and batch["words"] == other["words"]
            assert torch.equal(batch["input_ids"], other["input_ids"])
        assert torch.equal(state, torch.get_rng_state())


def test_val_and_test_come_in_order(reviews):
    for loader, dataset in (
        (reviews.val_dataloader(), reviews.val_dataset),
        (reviews.test_dataloader(), reviews.test_dataset),
    ):
        texts = itertools.chain(*(batch["text"] for batch in loader))
        assert list(texts) == [entry["text"] for entry in dataset.items]


def test_a_data_module_can_be_pickled(reviews):
    copy = pickle.loads(pickle.dumps(reviews))
    assert copy.val_dataset[3] == reviews.val_dataset[3]


# reviews.


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


def test_the_registry():
    for name in ("reviews", "text_table", "sst", "eraser"):
        assert name in DATAMODULES


# text_table.

GOOD = {
    "csv": 'label,note,text,why\npos,1,"good, ""very""\nfilm","[[0, 4]]"\nneg,2,bad film,\n',
    "tsv": "label\ttext\twhy\npos\tgood film\t[[0, 4]]\nneg\tbad film\t[]\n",
    "jsonl": '{"text": "good film", "label": "pos", "why": [[0, 4]]}\n\n'
    '{"text": "bad film", "label": "neg", "why": null}\n',
}


def table(tmp_path: Path, val: str | bytes, ending: str, **options) -> TextTableDataModule:
    """A good training set, and `val` for val."""
    (tmp_path / "train.csv").write_text(GOOD["csv"], encoding="utf-8")
    path = tmp_path / f"val.{ending}"
    path.write_bytes(val if isinstance(val, bytes) else val.encode())
    return TextTableDataModule(str(tmp_path / "train.csv"), str(path), **options)


@pytest.mark.parametrize("ending", GOOD)
def test_a_table(tmp_path, ending):
    data = table(tmp_path, GOOD[ending], ending, rationale_column="why")
    assert data.class_names == ["neg", "pos"]
    good, bad = data.val_dataset.items
    assert good["label"] == 1 and bad["label"] == 0
    assert good["text"] == ('good, "very"\nfilm' if ending == "csv" else "good film")
    assert good["rationale"] == [(0, 4)]
    assert bad == item("bad film", 0, [] if ending == "tsv" else None)
    assert data.test_dataset is data.val_dataset and data.contrast_dataset is None
    assert data.collate([good, good])["rationale"][:, 0].all()


def test_a_table_without_rationales_and_with_a_test_set(tmp_path):
    test = tmp_path / "test.TSV"
    test.write_bytes("\ufeffa\tb\r\n7\tx\r\n".encode())  # as Excel has it
    train = tmp_path / "train.jsonl"
    train.write_text('{"a": 7, "b": "y z"}\n{"a": "8", "b": "z"}')
    data = TextTableDataModule(
        str(train), str(train), str(test), text_column="b", label_column="a", vocab_size=50
    )
    assert data.class_names == ["7", "8"]
    assert data.test_dataset.items == [item("x", 0)]
    assert [len(split) for split in (data.train_dataset, data.test_dataset)] == [2, 1]


@pytest.mark.parametrize(
    ("ending", "val", "told"),
    [
        ("csv", "", "empty; accepted: a .csv"),
        ("csv", " \n\n", "empty; accepted"),
        ("csv", "text,label,why\n", "no rows; accepted"),
        ("jsonl", "", "empty; accepted"),
        ("csv", "text,Label,why\na,pos,\n", "line 2: no column 'label'; .* text, Label, why"),
        ("jsonl", '{"text": "a", "label": "pos"}', "line 1: no column 'why'; .* text, label"),
        ("csv", "text,label,why\na,pos,\nb,good,\n", "line 3: unknown label 'good'; .* neg, pos"),
        ("csv", "text,label,why\n  ,pos,\n", "line 2: text is '  '; accepted"),
        ("jsonl", '\n{"text": 3, "label": "pos", "why": []}', "line 2: text is 3; accepted"),
        ("jsonl", '{"text": "a", "label": null, "why": []}', "line 1: label is None; accepted"),
        ("csv", "text,label,why\na,,\n", "line 2: label is ''; accepted"),
        ("csv", "text,label,why\na, b,pos,\n", "line 2: 4 fields where the header has 3; accepted"),
        ("csv", 'text,label,why\n"a"b,pos,\n', "line 2: .* accepted"),
        ("tsv", 'text\tlabel\twhy\n"a\tpos\t\n', "line 2: unexpected end of data; accepted"),
        ("csv", b"text,label,why\na,pos,\n\xe9,pos,\n", "line 3: byte 0xe9; accepted: UTF-8"),
        ("jsonl", b'{"text": "\xff"}', "line 1: byte 0xff; accepted: UTF-8"),
        ("jsonl", '{"text": "a"\n', "line 1: malformed JSON .* accepted"),
        ("jsonl", "[" * 100_000, "line 1: malformed JSON .* accepted"),
        ("jsonl", '["a"]', "line 1: no JSON object; accepted"),
        ("csv", "text,label,why\na,pos,[0]\n", r"line 2: why is '\[0\]'; accepted: .* <= 1 "),
        ("csv", "text,label,why\na,pos,oops\n", "line 2: why is 'oops'; accepted"),
        ("csv", "text,label,why\na,pos,7\n", "line 2: why is '7'; accepted"),
        *(
            ("jsonl", json.dumps({"text": "abc", "label": "pos", "why": why}), "line 1: why is ")
            for why in ([[0, 4]], [[-1, 2]], [[2, 2]], [[0, 1.5]], [[0, True]], [["0", "1"]], 5)
        ),
    ],
)
def test_what_is_wrong_with_a_table_is_told_in_one_line(tmp_path, ending, val, told):
    with pytest.raises(InputError, match=rf"val\.{ending}.*{told}") as error:
        table(tmp_path, val, ending, rationale_column="why")
    assert "\n" not in str(error.value) and "accepted: " in str(error.value)


def test_files_that_are_no_table(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.csv: no such file; accepted: a .csv"):
        TextTableDataModule(str(tmp_path / "nowhere.csv"), str(tmp_path / "nowhere.csv"))
    with pytest.raises(ValueError, match="val='.*' is not accepted: val must be .* .jsonl"):
        table(tmp_path, GOOD["csv"], "xlsx")


# sst.

TREES = {
    "train.txt": "(3 (2 A) (4 (3 (2 very) (3 good)) (2 (2 film) (1 -LRB-))))\n"
    "(2 (2 Neutral) (3 good))\n"
    "(1 (1 (0 awful)  (2 ``) (4 ha) ) (2 1\\/2) (2 -RRB-) )\n",
    "dev.txt": "(0 bad)",
}


def write_files(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def test_trees(tmp_path):
    data = SSTDataModule(str(write_files(tmp_path, TREES)), vocab_size=60)
    positive, negative = data.train_dataset.items
    assert positive["text"] == "A very good film (" and positive["label"] == 1
    assert spelled(positive["text"], positive["rationale"]) == ["good"]
    assert negative["text"] == 'awful " ha 1/2 )' and negative["label"] == 0
    assert spelled(negative["text"], negative["rationale"]) == ["awful"]
    assert data.val_dataset.items == [item("bad", 0, [(0, 3)])]
    assert data.test_dataset is data.val_dataset
    assert data.class_names == ["negative", "positive"]
    write_files(tmp_path, {"test.txt": "(4 fine)"})
    with_test = SSTDataModule(str(tmp_path), vocab_size=60)
    assert with_test.test_dataset.items == [item("fine", 1, [(0, 4)])]


@pytest.mark.parametrize(
    "tree",
    [
        "great film",
        "(3 (2 A) (5 film))",
        "(3 (2 A) (2 film)",
        "(3 (2 A)) (2 film))",
        "(3 (2 A) film)",
        "()",
        "(3 )",
    ],
)
def test_what_is_no_tree(tmp_path, tree):
    write_files(tmp_path, TREES | {"dev.txt": f"(3 fine)\n\n{tree}\n"})
    with pytest.raises(InputError, match=r"dev.txt, line 3: no tree; accepted: trees like"):
        SSTDataModule(str(tmp_path), vocab_size=60)


def test_missing_and_neutral_trees(tmp_path):
    with pytest.raises(FileNotFoundError, match="train.txt: no such file; accepted: trees like"):
        SSTDataModule(str(tmp_path))
    write_files(tmp_path, TREES | {"dev.txt": "(2 so)"})
    with pytest.raises(InputError, match="dev.txt: all trees are neutral; accepted: trees like"):
        SSTDataModule(str(tmp_path))


# eraser.


def evidence(docid: str, start: int, end: int, text: str) -> dict:
    return {"docid": docid, "start_token": start, "end_token": end, "text": text}


def annotation(name: str, label: str, *groups: list[dict], **more) -> dict:
    return {"annotation_id": name, "classification": label, "evidences": list(groups), **more}


def eraser_folder(tmp_path: Path, **splits) -> Path:
    annotations = {
        "train": [
            annotation("a", "POS", [evidence("a", 1, 3, "good film")], docids=None),
            annotation("b", "NEG", [evidence("b", 0, 1, "bad")], [evidence("b", 1, 4, "so , so")]),
        ],
        "val": [annotation("both", "NEG", [evidence("b", 3, 4, "so")], docids=["a", "b"])],
        "test": [annotation("a", "POS")],
    } | splits
    documents = {"docs/a": "a good\nfilm .\n", "docs/b": "bad so\t,  so\n"}
    files = {
        f"{split}.jsonl": "".join(f"{json.dumps(row)}\n" for row in rows)
        for split, rows in annotations.items()
    }
    return write_files(tmp_path, documents | files)


def test_eraser(tmp_path):
    data = EraserDataModule(str(eraser_folder(tmp_path)), vocab_size=60)
    assert data.class_names == ["NEG", "POS"]
    good, bad = data.train_dataset.items
    assert good["text"].split() == "a good film .".split() and good["label"] == 1
    assert spelled(good["text"], good["rationale"]) == ["good\nfilm"]
    assert spelled(bad["text"], bad["rationale"]) == ["bad", "so\t,  so"]
    (both,) = data.val_dataset.items
    assert both["text"].split() == "a good film . bad so , so".split()
    assert both["rationale"] == [(both["text"].rindex("so"), both["text"].rindex("so") + 2)]
    assert data.test_dataset[0]["rationale"] == [] and data.test_dataset[0]["text"] == good["text"]
    batch = data.collate([good, bad])
    assert batch["rationale"].tolist() == [[False, True, True, False], [True] * 4]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (annotation("a", "POS", [evidence("a", 1, 3, "good movie")]), "tokens 1 to 3 of a are"),
        (annotation("a", "POS", [evidence("a", 3, 5, ".")]), "tokens 3 to 5 of a are '.'"),
        (annotation("a", "POS", [evidence("a", 2, 2, "")]), "tokens 2 to 2 of a are ''"),
        (annotation("a", "POS", [evidence("a", -3, -2, "good")]), "tokens -3 to -2 of a"),
        (annotation("a", "meh"), "unknown label 'meh'; accepted: the labels of train, NEG, POS"),
        ({"annotation_id": "a", "classification": "POS"}, "malformed annotation .*evidences"),
        (annotation("a", "POS", [{"docid": "a"}]), "malformed annotation .*start_token"),
        (annotation("a", "POS", [evidence("a", "1", "2", "good")]), "malformed annotation"),
        (annotation("a", "POS", [evidence("a", 1, 2, None)]), "malformed annotation"),
        (annotation(None, "POS"), "malformed annotation"),
    ],
)
def test_annotations_that_do_not_fit(tmp_path, row, told):
    root = eraser_folder(tmp_path, val=[annotation("a", "POS"), row])
    with pytest.raises(InputError, match=rf"val.jsonl, line 2: {told}") as error:
        EraserDataModule(str(root), vocab_size=60)
    assert "\n" not in str(error.value) and "accepted: " in str(error.value)


def test_missing_files_of_eraser(tmp_path):
    with pytest.raises(FileNotFoundError, match="train.jsonl: no such file; accepted: ERASER's"):
        EraserDataModule(str(tmp_path))
    root = eraser_folder(tmp_path, val=[annotation("c", "POS")])
    with pytest.raises(FileNotFoundError, match="c: no such file; .* that .*val.jsonl, line 1 nam"):
        EraserDataModule(str(root), vocab_size=60)


# The real data sets, where they are at hand.


@pytest.mark.skipif(not (SHARED / "data/sst").is_dir(), reason="no ../shared/data/sst")
def test_the_real_treebank():
    data = SSTDataModule(str(SHARED / "data/sst"))
    assert [len(data.train_dataset), len(data.val_dataset)] == [6921, 872]
    assert any("(" in entry["text"] for entry in data.train_dataset.items)
    marked = [entry for entry in data.val_dataset.items if entry["rationale"]]
    assert len(marked) > 700
    assert all(np.all(np.diff(entry["rationale"]) > 0) for entry in marked)


@pytest.mark.skipif(
    not (SHARED / "data/eraser-movies").is_dir(), reason="no ../shared/data/eraser-movies"
)
def test_the_real_movie_reviews():
    """Every evidence was checked against its document while reading."""
    data = EraserDataModule(str(SHARED / "data/eraser-movies"))
    splits = (data.train_dataset, data.val_dataset, data.test_dataset)
    assert [len(split) for split in splits] == [1600, 200, 200]
    assert sum(len(entry["rationale"]) for split in splits for entry in split.items) == 18122
    batch = next(iter(data.val_dataloader()))
    assert batch["input_ids"].shape == (10, 512) and max(batch["dropped"]) > 0
