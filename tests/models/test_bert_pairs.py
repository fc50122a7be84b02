"""Pairs of texts, from the command line to the page: the words of both, told apart."""

import itertools
import json

import pytest
import torch

import explain
import relprop
import train
from lightning_modules import BertClassifier
from lightning_modules.data.texts.pairs import Pair
from lightning_modules.data.texts.tokenizers import input_config_of, train_tokenizer
from lightning_modules.modalities.texts.draw import MOST_WORDS, Paragraph, markdown, text_picture
from lightning_modules.models.checkpoints import load_classifier
from lightning_modules.models.published import hf_classifier
from tests.helpers.published import SIZES, TEXTS, save_text_classifier
from tests.helpers.runs import TRAINER, load

WORDS = ["red", "green", "blue", "black"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on pairs: does the second text name the colour of the first?"""
    root = tmp_path_factory.mktemp("pairs")
    rows = [
        {
            "premise": f"the {a} car",
            "hypothesis": f"it is {b}",
            "label": "yes" if a == b else "no",
            "why": [[[4, 4 + len(a)]], [[6, 6 + len(b)]]],
        }
        for a, b in itertools.product(WORDS, WORDS)
    ]
    (root / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = [
        *(*TRAINER, "--config=configs/bert_reviews.yaml", "data.kind=text_table"),
        *(f"data.{split}={root / 'pairs.jsonl'}" for split in ("train", "val")),
        *("data.text_column=premise", "data.pair_column=hypothesis"),
        *("data.rationale_column=why", "data.batch_size=8", "data.vocab_size=120"),
        *("data.max_length=16", "model.config.hidden_size=16", "model.config.num_hidden_layers=2"),
        *("model.config.hidden_dropout_prob=0.1", "tracker.samples=2", "trainer.max_epochs=2"),
        "tracker.protocols=[rationales]",
    ]
    train.main([*options, f"run_dir={root / 'run'}"])
    return root / "run", options


def test_the_run_has_pictures_and_scores_and_resumes_to_the_bit(trained, tmp_path):
    run, options = trained
    assert len(list((run / "explanations").glob("epoch=*.png"))) == 2
    header, *rows = (run / "metrics.csv").read_text().splitlines()
    assert "relevance/token_f1" in header
    train.main([*options, f"run_dir={tmp_path / 'cut'}", "trainer.max_steps=3"])
    train.main(["--resume", str(tmp_path / "cut"), "trainer.max_steps=-1"])
    ours, theirs = load(tmp_path / "cut")["state_dict"], load(run)["state_dict"]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_types_of_tokens_reach_the_model(trained):
    module = load_classifier(trained[0] / "checkpoints" / "last.ckpt")
    batch = module.prepare([Pair("the red car", "it is red")])
    plain = module.backbone(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    typed = module.backbone(**{k: batch[k] for k in ("input_ids", "token_type_ids")})
    torch.testing.assert_close(module(batch), typed.logits)
    assert not torch.allclose(module(batch), plain.logits)


def run_explain(*arguments) -> None:
    explain.main([str(x) for x in arguments])


def test_a_pair_of_the_command_line_is_explained_by_the_words_of_both(trained, tmp_path):
    run_explain(
        *("--checkpoint", trained[0], "--text", "the red car", "a black cat"),
        *("--text-pair", "it is red", "blue", "--output", tmp_path),
        *("--format", "json,html,png", "--method", "attnlrp", "transformer_attribution"),
    )
    entry, other = json.loads((tmp_path / "explanations.json").read_text())["inputs"]
    assert entry["texts"] == ["the red car", "it is red"] and entry["second_word"] == 3
    spelled = [entry["text"][a:b] for a, b in entry["words"]]
    assert spelled == ["the", "red", "car", "it", "is", "red"] and other["second_word"] == 3
    module = load_classifier(trained[0] / "checkpoints" / "best.ckpt")
    found = module.explain(module.prepare([Pair("the red car", "it is red")]), method="attnlrp")
    expected = found.arrays()[0]
    assert entry["relevance"]["attnlrp"][0] == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-7)
    page = (tmp_path / "explanations.html").read_text()
    assert '"second":3,"called":["first","second"]' in page


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--text", "a"], "text 1: the model reads pairs of texts; accepted: --text TEXT --text-p"),
        (["--text", "a", "b", "--text-pair", "c"], "--text-pair: 1 text for 2 of --text; accepted"),
        (["--text", "a", "--text-pair", " "], "text 1: no text"),
    ],
    ids=["single", "count", "blank"],
)
def test_what_is_no_pair_is_refused_in_a_line(trained, tmp_path, capsys, given, said):
    with pytest.raises(SystemExit) as exit_:
        run_explain("--checkpoint", trained[0], *given, "--output", tmp_path / "out")
    assert exit_.value.code == 2
    assert f"explain.py: {said}" in capsys.readouterr().err


def test_lines_of_standard_input_have_both_texts(trained, tmp_path, monkeypatch):
    lines = ["the red car\tit is red\n", "\n", "a car\tblue\n"]
    monkeypatch.setattr("sys.stdin", lines)
    run_explain(
        *("--checkpoint", trained[0], "--text", "-", "--text-pair", "-", "--format", "json"),
        *("--output", tmp_path),
    )
    inputs = json.loads((tmp_path / "explanations.json").read_text())["inputs"]
    assert [x["texts"] for x in inputs] == [["the red car", "it is red"], ["a car", "blue"]]


def test_rationales_are_scored_with_words_taken_out_of_both_texts(trained, tmp_path):
    run_explain(
        *("evaluate", "--checkpoint", trained[0], "--protocol", "rationales", "--limit", 4),
        *("--method", "attnlrp", "random", "saliency", "--output", tmp_path),
    )
    table = (tmp_path / "scores.csv").read_text()
    assert all(name in table for name in ("attnlrp", "random", "saliency", "comprehensiveness"))


def test_words_that_are_chosen_stay_in_their_text(trained):
    module = load_classifier(trained[0] / "checkpoints" / "best.ckpt")
    found = module.explain(module.prepare([Pair("the red car", "it is red")]), method="attnlrp")
    assert found.made_of(0, {1, 3, 5}) == Pair("red", "it red")
    assert found.made_of(0, {5}) == Pair("", "red")
    assert found.second_word(0) == 3


def test_a_run_of_pairs_and_one_of_single_texts_do_not_go_on_from_each_other(trained, capsys):
    single = [x for x in trained[1] if not x.startswith(("data.pair_column", "data.rationale"))]
    given = [x for x in single if x.startswith("data.")]
    with pytest.raises(SystemExit) as exit_:
        train.main(["--resume", str(trained[0]), *given, "data.pair_column=null",
                    "data.rationale_column=null", "trainer.max_epochs=3"])  # fmt: skip
    assert exit_.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the data are single texts; accepted with --resume: " in said
    assert said.endswith("pairs of texts")


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_models_that_know_no_types_of_tokens_read_pairs_all_the_same(kind):
    tokenizer = train_tokenizer(TEXTS * 3, 200, pairs=True)
    config = {"model_type": kind} | SIZES
    if kind == "distilbert":
        config = {"model_type": kind, "dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}
    elif kind == "roberta":
        config |= {"type_vocab_size": 1}
    inputs = input_config_of(tokenizer, 20, None) | {"pairs": True}
    module = BertClassifier(["a", "b"], inputs, config=config)
    module.check_inputs()
    batch = module.eval().prepare([Pair(*TEXTS)])
    assert ("token_type_ids" in module.inputs(batch)) == (kind == "bert")
    assert module.explain(batch, method="attnlrp").words_of(0)[0][0] == "the"


def test_a_published_classifier_explains_single_texts_and_pairs(tmp_path):
    model = save_text_classifier(tmp_path)
    module = hf_classifier(str(tmp_path))
    texts = module.sources["text"]
    assert texts.typed_text("one", "it") == "one" and texts.typed_text(Pair("a", "b"), "it")
    pair = Pair("the cat sat", "a dog ran")
    batch = module.prepare([pair])
    inputs = module.inputs(batch)
    expected = relprop.explain(model, inputs, 1, "attnlrp")
    found = module.explain(batch, 1, "attnlrp")
    torch.testing.assert_close(found.logits, expected.logits)
    assert [word for word, _ in found.words_of(0)] == f"{pair.first} {pair.second}".split()


def test_pictures_and_markdown_tell_the_texts_apart():
    words = [("one", 1.0), ("two", 0.1), ("three", 0.6)]
    pair, single = Paragraph("why?", words, second=2), Paragraph("why?", words)
    assert "> first: **one** two\n>\n> second: **three**" in markdown([[pair]])
    assert "> **one** two **three**\n" in markdown([[single]])
    rows = [text_picture([[x]], "it").shape[0] for x in (single, pair)]
    assert rows[1] > rows[0]
    long = Paragraph("why?", [("w", 1.0)] * 300 + [("v", 1.0)] * 3, second=300).shortened()
    assert [(name, len(part)) for name, part in long.texts] == [
        ("first:", MOST_WORDS + 1),
        ("second:", 3),
    ]
