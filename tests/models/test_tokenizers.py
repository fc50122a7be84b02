"""Tokenizers that are not there, or not the model's: told wherever one is loaded."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import explain
import relprop
import train
from lightning_modules import BertClassifier
from lightning_modules.data.texts.batches import TextCollator, find_words
from lightning_modules.data.texts.tokenizers import (
    input_config_of,
    load_tokenizer,
    read_tokenizer,
    vocabulary_size,
)
from lightning_modules.models.hf_checks import positions_of
from lightning_modules.models.published import hf_classifier
from lightning_modules.utils.errors import InputError
from tests.helpers.published import SIZES, TEXTS, save_text_classifier, tokenizer_of
from tests.helpers.runs import TRAINER

NO_TOKENIZER = "no tokenizer of its own"
FAMILIES = ["bert", "distilbert", "roberta", "electra", "albert", "xlm-roberta", "deberta-v2"]
OWN_SIZES = {
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "albert": {"embedding_size": 16},
    "esm": {"position_embedding_type": "absolute"},
}


def told(capsys, main, *arguments) -> str:
    """The one line of a call that fails."""
    with pytest.raises(SystemExit) as exit_:
        main(list(map(str, arguments)))
    assert exit_.value.code == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith(("train.py: ", "explain.py: ")) and "accepted: " in message, message
    return message


def explain_(folder: Path, *arguments) -> None:
    explain.main(["--hf", str(folder), "--text", TEXTS[0], "--device", "cpu", *arguments])


def training(run_dir: Path, *options: str) -> list[str]:
    return [
        *(*TRAINER, "--config=configs/bert_reviews.yaml", "model.config=null", "tracker=null"),
        *("data.train_size=24", "data.val_size=12", "data.test_size=12", "data.contrast_size=4"),
        *("trainer.max_epochs=1", "data.max_length=60", f"run_dir={run_dir}", *options),
    ]


# ---------------------------------------------------------------------------- one that is not there


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_folder_without_a_tokenizer_has_none(tmp_path, kind):
    save_text_classifier(tmp_path, kind, tokenizer=False, **OWN_SIZES.get(kind, {}))
    with pytest.raises(InputError, match=NO_TOKENIZER):
        read_tokenizer(str(tmp_path))


@pytest.mark.parametrize("kind", FAMILIES)
def test_one_that_transformers_has_made_up_and_saved_is_none(tmp_path, kind):
    save_text_classifier(tmp_path, kind, tokenizer=False, **OWN_SIZES.get(kind, {}))
    AutoTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    with pytest.raises(InputError, match=NO_TOKENIZER):
        read_tokenizer(str(tmp_path))


def test_no_tokenizer_is_told_by_explain_and_by_train(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "packed" / "model"
    save_text_classifier(folder, tokenizer=False)
    (tmp_path / "packed" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    text = ("--text", TEXTS[0], "--output", tmp_path / "out")
    for name in (folder, "package:packed/model"):
        message = told(capsys, explain.main, "--hf", name, *text)
        assert f"--hf {name}: it has {NO_TOKENIZER}" in message
    run_dir = tmp_path / "run"
    with pytest.raises(SystemExit) as exit_:
        train.main(training(run_dir, f"model.name={folder}", f"data.tokenizer={folder}"))
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert exit_.value.code == 2 and not run_dir.exists()
    assert f'tokenizer: "{folder}" is not accepted' in message and NO_TOKENIZER in message


def test_a_vocabulary_alone_is_a_tokenizer(tmp_path):
    """As models had it before there was a tokenizer.json."""
    save_text_classifier(tmp_path, tokenizer=False)
    vocabulary = tokenizer_of().get_vocab()
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)))
    assert read_tokenizer(str(tmp_path)).get_vocab() == vocabulary


@pytest.mark.parametrize("kind", ["roberta", "deberta"])
def test_a_tokenizer_that_would_be_read_as_another_is_told(tmp_path, kind):
    """A WordPiece without a tokenizer_config.json, in the folder of a model that has a BPE."""
    save_text_classifier(tmp_path, kind, vocab_size=200)
    assert read_tokenizer(str(tmp_path)).tokenize("the cat") == ["the", "cat"]
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(InputError, match=r"tokenizer.json is a WordPiece, .* the BPE of a "):
        read_tokenizer(str(tmp_path))


# ------------------------------------------------------------------------ one that fits it badly


def test_a_token_that_the_model_does_not_embed_is_told(tmp_path, capsys):
    """Also one that was added later, which vocab_size does not count."""
    folder = tmp_path / "model"
    save_text_classifier(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = len(tokenizer)
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(folder)
    assert tokenizer.vocab_size == tokens == vocabulary_size(tokenizer) - 1
    said = f"the tokenizer has {tokens + 1} tokens, and the model embeds {tokens}"
    text = ("--text", TEXTS[0], "--output", tmp_path / "out")
    message = told(capsys, explain.main, "--hf", folder, *text)
    assert f"--hf {folder}: {said}" in message
    options = (f"model.name={folder}", f"data.tokenizer={folder}")
    message = told(capsys, train.main, *training(tmp_path / "run", *options))
    assert f"model.name {folder}: {said}" in message and not (tmp_path / "run").exists()


def test_the_largest_batch_has_the_last_of_the_added_tokens(tmp_path):
    """A model that is built for a tokenizer embeds all of its tokens."""
    tokenizer = tokenizer_of()
    tokenizer.add_tokens(["zebra"])
    tokens = len(tokenizer)
    config = input_config_of(tokenizer, 20, None)
    sizes = {**SIZES, "model_type": "bert"}
    model = BertClassifier(["a", "b"], config, config=sizes)
    assert model.largest_batch()["input_ids"].max() == tokens - 1
    model.check_inputs()
    too_few = sizes | {"vocab_size": tokens - 1}
    with pytest.raises(InputError, match=f"vocab_size .* {tokens}"):
        BertClassifier(["a", "b"], config, config=too_few).check_inputs()


@pytest.mark.parametrize(("rows", "is_told"), [(55, False), (5_000, True)])
def test_many_more_embeddings_than_tokens_are_told(tmp_path, capsys, rows, is_told):
    save_text_classifier(tmp_path, vocab_size=rows)
    assert vocabulary_size(tokenizer_of()) == 55
    explain_(tmp_path, "--output", str(tmp_path / "out"))
    said = capsys.readouterr().err
    assert ("the tokenizer has 55 tokens, and the model embeds 5000" in said) == is_told


def test_padding_of_the_vocabulary_is_not_worth_a_word(tmp_path, capsys):
    """Of 30,528 embeddings for BERT's 30,522 tokens, say."""
    tokenizer = tokenizer_of()
    tokenizer.add_tokens([f"w{i}" for i in range(945)])
    save_text_classifier(tmp_path, vocab_size=1008)
    tokenizer.save_pretrained(tmp_path)
    explain_(tmp_path, "--output", str(tmp_path / "out"))
    assert "the model embeds" not in capsys.readouterr().err


# ---------------------------------------------------------------------------------- long texts


@pytest.mark.parametrize("limit", [None, 64, 512])
@pytest.mark.parametrize(("kind", "most"), [("bert", 64), ("roberta", 63)])
def test_a_text_loses_what_the_positions_do_not_hold(tmp_path, limit, kind, most):
    """Whatever its tokenizer says, and as with a tokenizer that says it."""
    save_text_classifier(tmp_path, kind, limit)
    explain_(tmp_path, "--text", "the cat sat on " * 50, "--output", str(tmp_path / "out"))
    module = hf_classifier(str(tmp_path))
    (dropped,) = module.prepare(["cat " * 200])["dropped"]
    assert 200 - dropped == most - 2


def test_a_shorter_limit_of_the_tokenizer_holds(tmp_path):
    save_text_classifier(tmp_path, limit=20)
    assert hf_classifier(str(tmp_path)).hparams.input_config["max_length"] == 20


@pytest.mark.parametrize("limit", [0, -1, 2, "many"])
def test_a_limit_without_room_for_a_word_is_told(tmp_path, capsys, limit):
    save_text_classifier(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": limit}))
    text = ("--text", TEXTS[0], "--output", tmp_path / "out")
    message = told(capsys, explain.main, "--hf", tmp_path, *text)
    assert f"--hf {tmp_path}: " in message and "accepted: 3 or more" in message


@pytest.mark.parametrize("kind", ["bert", "roberta", "mpnet", "esm", "distilbert", "camembert"])
@pytest.mark.parametrize("pad", [0, 3])
def test_the_positions_are_as_many_as_a_model_runs_with(tmp_path, kind, pad):
    """Found by trying: one token more has no position."""
    model = save_text_classifier(tmp_path, kind, pad_token_id=pad, **OWN_SIZES.get(kind, {}))
    most = positions_of(model)
    ids = torch.full((1, most + 1), 7)
    assert model(input_ids=ids[:, :most]).logits.isfinite().all()
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=ids)


@pytest.mark.parametrize(("kind", "most"), [("bert", 64), ("roberta", 63)])
def test_training_on_longer_texts_than_the_positions_hold_is_told(tmp_path, capsys, kind, most):
    folder = tmp_path / "model"
    save_text_classifier(folder, kind)
    options = (f"model.name={folder}", f"data.tokenizer={folder}", f"data.max_length={most + 1}")
    message = told(capsys, train.main, *training(tmp_path / "run", *options))
    assert f"positions for data.max_length={most + 1} tokens" in message
    assert not (tmp_path / "run").exists()
    train.main(training(tmp_path / "run", *options[:2], f"data.max_length={most}"))


# ------------------------------------------------------------------------------- the first word


def test_the_first_word_keeps_its_relevance_where_no_class_token_stands_before_it():
    """The class token's own score is of no word; a tokenizer may begin with a word."""
    backend = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "the": 2, "cat": 3}, "[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]"
    )
    torch.manual_seed(0)
    config = input_config_of(tokenizer, 20, None)
    model = BertClassifier(["a", "b"], config, config={"model_type": "bert", **SIZES}).eval()
    texts = ["the cat", "cat the cat the"]
    batch = TextCollator(tokenizer, 20).rows(texts, [find_words(text) for text in texts])
    for method in ("transformer_attribution", "rollout"):
        ours = model.explain(batch, 1, method)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        raw = relprop.explain(model.backbone, inputs, 1, method, normalize_rows=True).relevance
        assert (ours.word_scores > 0)[:, 0].all()
        torch.testing.assert_close(ours.word_scores, raw)


def test_a_tokenizer_of_a_package_is_loaded(tmp_path, monkeypatch):
    tokenizer_of().save_pretrained(tmp_path / "packed" / "model")
    (tmp_path / "packed" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert load_tokenizer("package:packed/model").get_vocab() == tokenizer_of().get_vocab()
