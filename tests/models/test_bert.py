"""BertClassifier: families of models, words, checkpoints, and the tracker on texts."""

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoConfig, AutoModelForSequenceClassification

import relprop
from lightning_modules import BertClassifier
from lightning_modules.callbacks.watch import concentration
from lightning_modules.data import DATAMODULES
from lightning_modules.data.texts.batches import TextCollator
from lightning_modules.modalities.texts.draw import escape
from lightning_modules.modalities.texts.explained import ExplainedTexts
from lightning_modules.utils.hub import locate
from tests.helpers.methods import OF_ALL_INPUTS, OF_TEXTS

SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 66,
}


@pytest.fixture(scope="module")
def data():
    sizes = {"train_size": 60, "val_size": 20, "test_size": 20, "contrast_size": 5}
    return DATAMODULES["reviews"](batch_size=6, vocab_size=300, **sizes)


@pytest.fixture(scope="module")
def batch(data):
    return data.collate([data.val_dataset[i] for i in range(6)])


def classifier(data, kind="bert", **options) -> BertClassifier:
    torch.manual_seed(0)
    sizes = dict(SIZES)
    if kind == "distilbert":
        sizes = {"dim": 24, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
    config = {"model_type": kind, **sizes, "pad_token_id": 0}
    return BertClassifier(data.class_names, data.input_config, config=config, **options)


def assert_close(a: torch.Tensor, b: torch.Tensor) -> None:
    """To 1e-9 of the largest magnitude: maps of untrained models are tiny."""
    assert (a - b).abs().max() <= 1e-9 * a.abs().max()


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "electra"])
def test_families_explain_and_sdpa_agrees_with_eager(data, batch, kind):
    eager = classifier(data, kind, attention="eager").double()
    sdpa = classifier(data, kind, attention="sdpa").double()
    sdpa.load_state_dict(eager.state_dict())
    # The word embeddings of electra are of another width than its states, which they decode.
    for method in OF_ALL_INPUTS if kind == "electra" else OF_TEXTS:
        a, b = (model.explain(batch, 1, method).relevance for model in (eager, sdpa))
        assert_close(a, b)
    assert a.std() > 0
    assert (a[batch["attention_mask"] == 0] == 0).all()


def test_a_text_is_explained_alone_as_in_a_padded_batch(data):
    model = classifier(data).double()
    items = [data.val_dataset[i] for i in range(6)]
    together = model.explain(data.collate(items), 1)
    for i, item in enumerate(items):
        alone = model.explain(data.collate([item]), 1)
        length = alone.relevance.shape[1]
        assert_close(together.relevance[i, :length], alone.relevance[0])
        assert [w for w, _ in together.words_of(i)] == [w for w, _ in alone.words_of(0)]


def test_a_words_score_is_its_highest_piece():
    relevance = torch.tensor([[9.0, 1.0, 3.0, 2.0, 8.0], [9.0, 4.0, 5.0, 1.0, 8.0]])
    word_ids = torch.tensor([[-1, 0, 0, 2, -1], [-1, 2, 1, 0, -1]])

    def explained(rows: int, text_of_row: list[int]) -> ExplainedTexts:
        texts = max(text_of_row) + 1
        return ExplainedTexts(
            relevance[:rows],
            target=torch.zeros(texts).long(),
            logits=torch.zeros(texts, 2),
            grid=None,
            special=word_ids[:rows] < 0,
            word_ids=word_ids[:rows],
            text_of_row=torch.tensor(text_of_row),
            words=[[(0, 1), (2, 3), (4, 5)]] * texts,
            text=["a b c"] * texts,
            dropped=[0] * texts,
        )

    one = explained(1, [0])
    assert one.word_scores.tolist() == [[3.0, 0.0, 2.0]]
    assert one.seen.tolist() == [[True, False, True]]
    assert one.maps.isnan().tolist() == [[False, True, False]]
    two_texts, two_windows = explained(2, [0, 1]), explained(2, [0, 0])
    assert two_texts.word_scores.tolist() == [[3.0, 0.0, 2.0], [1.0, 5.0, 4.0]]
    assert two_windows.word_scores.tolist() == [[3.0, 5.0, 4.0]]
    relevance[0, 1] = torch.nan
    assert explained(2, [0, 1]).not_finite().tolist() == [True, False]
    assert explained(2, [0, 0]).not_finite().tolist() == [True]


def test_words_are_those_of_the_text(data, batch):
    explained = classifier(data).explain(batch)
    for i, text in enumerate(batch["text"]):
        assert [word for word, _ in explained.words_of(i)] == text.split()


def test_a_long_text_is_explained_window_by_window(data):
    """Each window as a text of its own, for the class that the whole text is given."""
    text = data.val_dataset[0]["text"]
    item = {"text": " ".join([text] * 4), "label": 0, "rationale": None}
    short = {"text": text, "label": 1, "rationale": None}
    tokenizer = data.collate.tokenizer
    model = classifier(data).double().eval()
    windows = TextCollator(tokenizer, max_length=20, overlap=5)([short, item])
    rows = windows["text_of_row"].tolist()
    assert rows.count(1) > 2 and windows["dropped"] == [0, 0]
    explained = model.explain(windows)

    ids = tokenizer(item["text"])["input_ids"][1:-1]
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    cut = [ids[start : start + 18] for start in range(0, len(ids) - 5, 13)]
    alone = [torch.tensor([[first, *window, last]]) for window in cut]
    logits = torch.stack([model.backbone(window).logits[0] for window in alone])
    assert rows.count(1) == len(cut)
    torch.testing.assert_close(explained.logits[1], logits.mean(dim=0), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(model(windows), explained.logits, rtol=1e-9, atol=1e-12)
    scores = torch.zeros(len(windows["words"][1])).double()
    for row, window in enumerate(alone, start=rows.index(1)):
        relevance = relprop.explain(
            model.backbone, window, int(explained.target[1]), normalize_rows=True
        ).relevance[0]
        for position in range(1, window.shape[1] - 1):
            word = windows["word_ids"][row, position]
            scores[word] = max(scores[word], relevance[position])
    assert explained.seen[1].all()
    assert_close(explained.word_scores[1], scores)


def test_a_pretrained_model_is_fine_tuned_with_its_dropout(data, tmp_path):
    config = AutoConfig.for_model("bert", vocab_size=300, num_labels=2, **SIZES)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    model = BertClassifier(data.class_names, data.input_config, name=str(tmp_path))
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("kind", ["deberta", "deberta-v2"])
def test_deberta_is_explained(data, batch, kind):
    """Its attention scores are a sum of products."""
    options = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
    config = {"model_type": kind, **SIZES, **options, "pad_token_id": 0}
    model = BertClassifier(data.class_names, data.input_config, config=config, attention="eager")
    assert model(batch).shape == (6, 2)
    for method in ("transformer_attribution", "attnlrp"):
        assert model.explain(batch, method=method).relevance.std() > 0


def test_a_model_in_a_python_package_is_found(tmp_path, monkeypatch):
    (tmp_path / "packed" / "model").mkdir(parents=True)
    (tmp_path / "packed" / "__init__.py").write_text("raise RuntimeError('it must not be run')")
    monkeypatch.syspath_prepend(tmp_path)
    assert locate("package:packed/model") == str(tmp_path / "packed" / "model")
    assert locate("bert-base-uncased") == "bert-base-uncased"
    for name in ("package:packed/other", "package:packed/../..", "package:absent", "package:"):
        with pytest.raises(ValueError, match="accepted: a hub id, a folder, or package:NAME"):
            locate(name)


def test_a_folder_of_weights_is_loaded(data, batch, tmp_path):
    config = AutoConfig.for_model("bert", vocab_size=300, num_labels=2, **SIZES)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    model.save_pretrained(tmp_path)
    ours = BertClassifier(data.class_names, data.input_config, name=str(tmp_path)).eval()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    assert torch.equal(ours(batch), model(**inputs).logits)


@pytest.mark.parametrize(
    "options",
    [{}, {"name": "a", "config": {}}, {"name": "/nowhere/at/all"}, {"config": {"model_type": "x"}}],
)
def test_mistakes_are_told(data, options):
    with pytest.raises(ValueError, match=r"model\.(name|config)"):
        BertClassifier(data.class_names, data.input_config, **options)


def test_no_weight_decay_on_biases_and_norms(data):
    model = classifier(data, weight_decay=0.3, layer_decay=0.5, lr=1.0)
    names = {id(p): name for name, p in model.backbone.named_parameters()}
    groups = {names[id(p)]: g for g in model.parameter_groups() for p in g["params"]}
    assert groups.keys() == set(names.values())
    for name, group in groups.items():
        free = name.endswith("bias") or "LayerNorm" in name
        assert group["weight_decay"] == (0.0 if free else 0.3), name
    assert groups["classifier.weight"]["lr"] == 1.0
    assert groups["bert.encoder.layer.1.output.dense.weight"]["lr"] == 0.5
    assert groups["bert.encoder.layer.0.output.dense.weight"]["lr"] == 0.25
    assert groups["bert.embeddings.word_embeddings.weight"]["lr"] == 0.125


# ---------------------------------------------------------------------------- while training


@pytest.fixture(scope="module")
def run_dir(trained):
    return trained(experiment="reviews")


def test_the_tracker_logs_words_and_scores(run_dir):
    tags = EventAccumulator(str(run_dir)).Reload().Tags()
    for name in ("drift", "concentration", "token_f1", "contrast", "seconds"):
        assert f"relevance/{name}" in tags["scalars"]
    assert "explanations/samples" in tags["images"]
    assert "explanations/samples/text_summary" in tags["tensors"]
    assert (run_dir / "explanations" / "epoch=001.png").stat().st_size > 1000


def test_a_checkpoint_builds_its_model_and_tokenizer(run_dir, batch):
    path = run_dir / "checkpoints" / "best.ckpt"
    model = BertClassifier.load_from_checkpoint(path, weights_only=True).eval()
    assert model.hparams.class_names == ["negative", "positive"]
    assert "tokenizer" in model.hparams.input_config
    assert model(batch).shape == (6, 2)


def test_concentration_is_0_when_even_and_1_on_one_word():
    maps = torch.tensor([[1.0, 1.0, 1.0, torch.nan], [0.0, 2.0, 0.0, 0.0]])
    assert torch.allclose(concentration(maps), torch.tensor([0.0, 1.0]))


def test_markdown_and_html_are_escaped():
    text = escape("<script>alert(1)</script> **bold** [a](b)\n# h | x")
    assert "<" not in text and "**" not in text.replace("\\*", "") and "\n" not in text
