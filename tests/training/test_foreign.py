"""What the tracker explains in a Lightning project that is not ours, and how."""

import logging

import lightning
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset
from transformers import BertTokenizer

import relprop
from lightning_modules.callbacks import RelevanceTracker
from lightning_modules.modalities.texts.pieces import batch_of_ids
from lightning_modules.models.explaining_texts import with_class_token_entry
from tests.helpers import strangers
from tests.helpers.strangers import (
    Pictures,
    Plain,
    TwoModels,
    bert,
    fit,
    made,
    timm_vit,
    watched_batch,
)

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def test_pictures_are_explained_for_their_labels(tmp_path):
    x, y = batch = watched_batch()
    module, tracker = made(), RelevanceTracker(batch, run_dir=tmp_path, samples=3)
    fit(tmp_path, module, tracker)
    expected = relprop.explain(module.model, x[:3], y[:3]).relevance
    torch.testing.assert_close(tracker.last_maps, expected)
    names = {path.name for path in (tmp_path / "explanations").iterdir()}
    assert names == {"epoch=000.png", "epoch=001.png"}


def test_texts_are_explained_for_their_labels_by_their_words(tmp_path):
    """As texts of ours: normalised rows, and neither class token nor padding in the map."""
    batch = watched_batch("texts")
    module, tracker = made("texts"), RelevanceTracker(batch)
    fit(tmp_path, module, tracker, max_epochs=1)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    found = relprop.explain(module.bert, inputs, batch["labels"], normalize_rows=True).relevance
    valid = batch["attention_mask"].bool()
    found = with_class_token_entry(found, valid, "transformer_attribution")
    for row, expected, ids in zip(tracker.last_maps, found, batch["input_ids"], strict=True):
        words = (ids > strangers.SEP).nonzero().flatten()  # neither [CLS], [SEP] nor padding
        torch.testing.assert_close(row[: len(words)], expected[words])
        assert not row[len(words) :].any()


@pytest.mark.parametrize("use_dora", [False, True])
def test_the_merged_model_is_explained_where_it_has_adapters(use_dora, tmp_path):
    peft = pytest.importorskip("peft")
    x, y = batch = watched_batch()
    config = peft.LoraConfig(r=4, target_modules=["qkv", "fc1"], use_dora=use_dora)
    model = peft.get_peft_model(timm_vit(), config)
    module, tracker = Pictures(model), RelevanceTracker(batch, samples=3)
    fit(tmp_path, module, tracker)
    assert any("lora" in name for name, _ in module.named_parameters())
    expected = relprop.explain(model.merge_and_unload(), x[:3], y[:3]).relevance
    torch.testing.assert_close(tracker.last_maps, expected)


def test_without_labels_the_predicted_classes_are_explained(tmp_path):
    x, y = watched_batch()
    sizes = []
    for name, source in (("predicted", x), ("both", (x, y))):
        module, tracker = made(), RelevanceTracker(source, run_dir=tmp_path / name)
        fit(tmp_path, module, tracker, max_epochs=1)
        expected = relprop.explain(module.model, x, y if name == "both" else None).relevance
        torch.testing.assert_close(tracker.last_maps, expected)
        sizes.append(Image.open(tmp_path / name / "explanations" / "epoch=000.png").size)
    (narrow, height), (wide, of_both) = sizes
    assert narrow < wide and height == of_both  # a column less


class OwnHead(Plain):
    """No classifier of a library's: a model without a head, and a head; what is called is new."""

    def __init__(self):
        super().__init__()
        self.body, self.head = timm_vit(num_classes=0), torch.nn.Linear(24, 3)

    def forward(self, x):
        return self.head(self.body(x))

    def logits_and_labels(self, batch):
        return self(batch[0]), batch[1]


def test_a_module_without_a_classifier_is_explained_by_its_forward(tmp_path):
    lightning.seed_everything(0, verbose=False)
    module, (x, y) = OwnHead(), watched_batch()
    tracker = RelevanceTracker((x, y))
    fit(tmp_path, module, tracker, max_epochs=1)
    torch.testing.assert_close(tracker.last_maps, relprop.explain(module, x, y).relevance)


def test_what_is_told_wins_over_what_is_found_out(tmp_path):
    x, y = watched_batch()
    lightning.seed_everything(0, verbose=False)
    module, tracker = (
        TwoModels(),
        RelevanceTracker(
            {"numbers": x, "more": x, "class": y},
            model="teacher.of_it",
            inputs=lambda batch: batch["numbers"],
            labels=lambda batch: (batch["class"] + 1) % 3,
            class_names=["a", "b", "c"],
            normalisation=(0.5, [0.5, 0.5, 0.5]),
        ),
    )
    fit(tmp_path, module, tracker, max_epochs=1)
    expected = relprop.explain(module.teacher["of_it"], x, (y + 1) % 3).relevance
    torch.testing.assert_close(tracker.last_maps, expected)
    assert tracker.foreign.adopted.class_names == ["a", "b", "c"]


class Normalising(Pictures):
    """Normalises on the device, into the batch that it is given, and augments while training."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        batch[0].mul_(3)
        if self.trainer.training or self.training:
            batch[0].zero_()
        return batch


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_pictures_are_normalised_as_in_validation(tmp_path, precision):
    (x, y), dtype = watched_batch(), {"32-true": torch.float, "64-true": torch.double}[precision]
    module, tracker, before = Normalising(timm_vit()), RelevanceTracker((x, y)), x.clone()
    fit(tmp_path, module, tracker, max_epochs=1, precision=precision)
    assert torch.equal(x, before)
    expected = relprop.explain(module.model.to(dtype), 3 * x.to(dtype), y).relevance
    torch.testing.assert_close(tracker.last_maps, expected.float())


class Precise(Pictures):
    """Keeps its classifier in another precision than its batches."""

    def __init__(self):
        super().__init__(timm_vit().double())

    def logits_and_labels(self, batch):
        return self.model(batch[0].double()), batch[1]


def test_inputs_are_of_the_precision_of_the_weights(tmp_path):
    (x, y), module = watched_batch(), Precise()
    tracker = RelevanceTracker((x, y))
    fit(tmp_path, module, tracker, max_epochs=1)
    expected = relprop.explain(module.model, x.double(), y).relevance
    torch.testing.assert_close(tracker.last_maps, expected.float())


@pytest.mark.parametrize(
    ("channels", "told", "looks"),
    [(3, None, 0.75), (1, None, 1.0), (3, (0.0, 0.5), 0.25), (5, None, 1.0)],
)
def test_pictures_look_as_before_they_were_normalised(tmp_path, channels, told, looks):
    """By what timm knows (mean and std of 0.5), by what is told, or by their own range."""
    x = torch.zeros(2, channels, strangers.SIDE, strangers.SIDE)
    x[:, :, :8] = 0.5
    module = Pictures(timm_vit(in_chans=channels))
    module.model.pretrained_cfg["mean"] = module.model.pretrained_cfg["std"] = (0.5,) * 3
    tracker = RelevanceTracker(x, normalisation=told)
    data = TensorDataset(x, torch.zeros(2, dtype=torch.long))
    strangers.trainer(tmp_path, tracker, max_epochs=1).fit(module, DataLoader(data, batch_size=2))
    adopted, batch = tracker.foreign.adopted, tracker.foreign.watched
    pictures = adopted.sources["image"].pictures(batch)
    assert pictures.shape[1] == 3 and pictures[0, 0, 0, 0] == pytest.approx(looks)


def test_class_names_are_those_of_the_configuration(tmp_path):
    named = made("texts", model=bert(id2label={0: "bad", 1: "good"}))
    for module, names in ((named, ["bad", "good"]), (made("texts"), ["0", "1"])):
        tracker = RelevanceTracker(watched_batch("texts"))
        fit(tmp_path, module, tracker, max_epochs=1)
        assert tracker.foreign.adopted.class_names == names


def test_words_are_those_of_the_tokenizer(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text(
        "\n".join(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "un", "##lik", "##ely", "!"])
    )
    tokenizer = BertTokenizer(str(path))
    made = tokenizer(["unlikely !", "un zebra! un"], padding=True, return_tensors="pt")
    batch = batch_of_ids(made["input_ids"], made["attention_mask"], tokenizer)
    shown = [
        [text[a:b] for a, b in spans]
        for text, spans in zip(batch["text"], batch["words"], strict=True)
    ]
    assert shown == [["unlikely!"], ["un", "[UNK]!", "un"]]
    assert batch["word_ids"].tolist() == [[-1, 0, 0, 0, 0, -1], [-1, 0, 1, 1, 2, -1]]
    assert batch["special"].sum() == 4
