"""The tracker in a Lightning project that is not ours: plain modules, their data and loaders."""

import logging
import random

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from transformers import BertTokenizer

import relprop
from lightning_modules.callbacks import RelevanceTracker
from lightning_modules.modalities.texts.pieces import batch_of_ids
from lightning_modules.models.explaining_texts import with_class_token_entry
from tests.helpers import strangers
from tests.helpers.processes import finish_two
from tests.helpers.runs import assert_identical
from tests.helpers.strangers import Data, Pictures, Plain, Reviews, bert, loader, timm_vit

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def fit(folder, module, *callbacks, data=None, ckpt_path=None, **options):
    """The trainer, when it has trained a module on its project's data."""
    project = "texts" if isinstance(module, Reviews) else "pictures"
    trainer = strangers.trainer(folder, *callbacks, **options)
    trainer.fit(module, datamodule=data or Data(project), ckpt_path=ckpt_path)
    return trainer


def made(project="pictures", **options):
    lightning.seed_everything(0, verbose=False)
    return strangers.PROJECTS[project][0](**options)


def watched_batch(project="pictures", size=6):
    torch.manual_seed(3)
    return next(iter(loader(project, size)))


# ---------------------------------------------------------------------- training is untouched


def everything(module, trainer) -> dict:
    """What training leaves, and the numbers that would be drawn next."""
    metrics = {k: v for k, v in trainer.callback_metrics.items() if "relevance" not in k}
    return {
        "weights": module.state_dict(),
        "gradients": {name: p.grad for name, p in module.named_parameters()},
        "optimizer": trainer.optimizers[0].state_dict(),
        "metrics": metrics,
        "training": {name: m.training for name, m in module.named_modules()},
        "trained": {name: p.requires_grad for name, p in module.named_parameters()},
        "hooks": {n: len(m._forward_hooks) for n, m in module.named_modules()},
        "drawn": [torch.rand(3), np.random.rand(3).tolist(), random.random()],
    }


@pytest.mark.parametrize("source", ["the validation set", "a batch", "a loader"])
@pytest.mark.parametrize("project", strangers.PROJECTS)
def test_training_is_the_same_to_the_bit(tmp_path, project, source):
    """With dropout, transforms that draw random numbers, and a loader that shuffles."""

    def trained(*callbacks):
        module = made(project)
        part = next(m for m in module.modules() if isinstance(m, torch.nn.LayerNorm))
        part.requires_grad_(False).eval()  # as somebody who freezes it
        part.register_forward_hook(lambda module, args, output: output * 1.01)
        return everything(module, fit(tmp_path, module, *callbacks))

    sources = {"a batch": watched_batch(project), "a loader": loader(project, generator=None)}
    tracker = RelevanceTracker(sources.get(source), samples=3)
    assert_identical(trained(tracker), trained())
    assert tracker.last_maps.shape[0] == 3 and tracker.last_maps.any()


def test_a_loader_with_a_generator_draws_what_it_would_have_drawn():
    class Endless(IterableDataset):
        def __iter__(self):
            return iter(strangers.Squares())

    def drawn(track):
        torch.manual_seed(0)
        watched = DataLoader(Endless(), batch_size=4, generator=torch.Generator().manual_seed(1))
        tracker = RelevanceTracker(watched, samples=3)
        fit(None, made(), *[tracker] * track, max_epochs=1)
        return watched.generator.get_state(), tracker

    (with_it, tracker), (without, _) = drawn(True), drawn(False)
    assert torch.equal(with_it, without)
    assert len(tracker.last_maps) == 3


def test_a_compiled_model_stays_compiled(tmp_path):
    module = made(model=torch.compile(timm_vit(), backend="eager"))
    tracker = RelevanceTracker(watched_batch())
    fit(tmp_path, module, tracker, max_epochs=1)
    assert isinstance(module.model, torch._dynamo.eval_frame.OptimizedModule)
    assert tracker.last_maps.any()


# ------------------------------------------------------------------ what is explained, and how


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


class TwoModels(Pictures):
    def __init__(self):
        super().__init__()
        self.teacher = torch.nn.ModuleDict({"of_it": timm_vit(depth=1)})


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
    adopted, batch = tracker.foreign.adopted, tracker.foreign.batch
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


# ------------------------------------------------------------------- when it reports, and where


class WithoutValidation(Pictures):
    validation_step = Plain.__mro__[1].validation_step


def test_without_validation_it_reports_at_the_end_of_the_epoch(tmp_path):
    lightning.seed_everything(0, verbose=False)
    module, tracker = WithoutValidation(), RelevanceTracker(watched_batch(), run_dir=tmp_path)
    trainer = strangers.trainer(tmp_path, tracker, max_epochs=3)
    trainer.fit(module, loader("pictures"))
    assert len(list((tmp_path / "explanations").iterdir())) == 3
    assert 0 < trainer.callback_metrics["relevance/drift"] < 1


def test_the_sanity_check_and_a_validation_alone_report_nothing(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(RelevanceTracker, "_publish", lambda *about: shown.append(about))
    module, tracker = made(), RelevanceTracker(watched_batch())
    trainer = fit(tmp_path, module, tracker, max_epochs=1, num_sanity_val_steps=2)
    assert len(shown) == 1
    trainer.validate(module, datamodule=Data("pictures"), verbose=False)
    assert len(shown) == 1


def test_a_validation_set_that_is_made_late_is_watched(tmp_path):
    """No sanity check, and validation every second epoch."""
    tracker = RelevanceTracker(samples=5)
    late = {"num_sanity_val_steps": 0, "check_val_every_n_epoch": 2}
    fit(tmp_path, made(), tracker, **late)
    assert len(tracker.last_maps) == 5


def test_without_a_folder_pictures_and_texts_go_to_the_logger(tmp_path):
    logger = TensorBoardLogger(tmp_path / "logs", name="", version="")
    fit(tmp_path, made("texts"), RelevanceTracker(), logger=logger)
    events = EventAccumulator(str(tmp_path / "logs"), {"images": 0, "tensors": 0}).Reload()
    assert [x.step for x in events.Images("explanations/samples")] == [2, 5]
    assert "explanations/samples/text_summary" in events.Tags()["tensors"]
    assert len(events.Scalars("relevance/concentration")) == 2
    assert not (tmp_path / "explanations").exists()


def test_drift_goes_on_after_a_resume_of_the_same_samples(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path / "kept", save_last=True, save_on_train_epoch_end=True)
    batch, options = watched_batch(), {"enable_checkpointing": True}
    fit(tmp_path, made(), RelevanceTracker(batch), checkpoint, max_epochs=1, **options)
    for source, goes_on in ((batch, True), (watched_batch("pictures", 4)[0], False)):
        resumed = fit(
            tmp_path, made(), RelevanceTracker(source), ckpt_path=tmp_path / "kept" / "last.ckpt"
        )
        assert ("relevance/drift" in resumed.callback_metrics) == goes_on


# --------------------------------------------------------------------------- what is refused


class Nothing(Plain):
    """No classifier, and no forward."""

    def __init__(self):
        super().__init__()
        self.part = torch.nn.Linear(2, 2)


IMAGE = torch.zeros(2, 3, strangers.SIDE, strangers.SIDE)


@pytest.mark.parametrize(
    ("module", "source", "told", "message"),
    [
        (TwoModels, (IMAGE,), {}, "has 2 classifiers, 'model', 'teacher.of_it'; accepted: model="),
        (Nothing, (IMAGE,), {}, "no classifier of timm or Hugging Face, and no forward; accepted"),
        (Pictures, (IMAGE,), {"model": "net"}, "model is 'net', .* no such module; accepted: 'for"),
        (Pictures, (IMAGE, 1, 2), {}, "which of a tuple of 3 goes into VisionTransformer"),
        (Pictures, {"a": IMAGE, "b": IMAGE}, {}, "a mapping of 'a', 'b' goes .* accepted: inputs="),
        (Pictures, 3, {}, "source is a int; accepted: a batch, a loader or a data set"),
        (Pictures, [], {}, "the data set has no samples; accepted: a batch, a loader or"),
        (Pictures, IMAGE.double()[..., 0], {}, "inputs are a tensor .2, 3, 32. of float64; accept"),
        (Pictures, (IMAGE,), {"class_names": ["a"]}, "class_names has 1 names; accepted: 3"),
        (Pictures, (IMAGE,), {"labels": lambda b: b[0]}, "labels= gives a tensor .*: integers .2."),
        (Pictures, (IMAGE,), {"normalisation": (1, [1, 2])}, "accepted: .mean, std., a number"),
        (Pictures, (IMAGE,), {"start_layer": 7}, "start_layer is 7; accepted: 0 to 1; accepted: a"),
        (Pictures, (IMAGE[:, :2],), {}, "RelevanceTracker: .*; accepted: a model that can be expl"),
        (Pictures, (IMAGE, torch.tensor([0, 9])[[1, 0]]), {}, "target is 9; accepted: classes 0"),
        (Pictures, None, {}, "source is None, and nothing is validated; accepted: a batch"),
        (Pictures, (IMAGE,), {"protocols": ["sanity"]}, "protocols score classifiers of light"),
    ],
)
def test_what_cannot_be_explained_is_refused_in_one_line(tmp_path, module, source, told, message):
    lightning.seed_everything(0, verbose=False)
    trainer = strangers.trainer(tmp_path, RelevanceTracker(source, **told), limit_val_batches=0)
    with pytest.raises(MisconfigurationException, match=message) as caught:
        trainer.fit(module(), datamodule=Data("pictures"))
    assert str(caught.value).startswith("RelevanceTracker: ") and "\n" not in str(caught.value)


def test_a_model_of_one_output_is_refused(tmp_path):
    trainer = strangers.trainer(tmp_path, RelevanceTracker((IMAGE,)))
    with pytest.raises(MisconfigurationException, match="has 1 output; accepted: one for each cl"):
        trainer.fit(Pictures(timm_vit(num_classes=1)), datamodule=Data("pictures"))


def test_a_folder_in_the_place_of_the_source_is_refused():
    with pytest.raises(ValueError, match="source is 'runs/a'; accepted: .*, or run_dir='runs/a'"):
        RelevanceTracker("runs/a")


# ------------------------------------------------------------------------------ two processes

TWO = """
import os, sys
import lightning
from lightning import Callback
from lightning_modules.callbacks import RelevanceTracker
from lightning_modules.models.adopted import Adopted
from tests.helpers import strangers

def record(self, batch):
    with open(f"{sys.argv[1]}/explained-{os.environ.get('LOCAL_RANK', '0')}", "a") as file:
        file.write(f"{len(batch['inputs'])}\\n")
    return plain(self, batch)

plain, Adopted.record = Adopted.record, record
lightning.seed_everything(0, verbose=False)
module, data = strangers.Pictures(), strangers.Data("pictures")
tracker = RelevanceTracker(run_dir=sys.argv[1], samples=5)
trainer = strangers.trainer(sys.argv[1], tracker, devices=2, strategy="ddp")
trainer.fit(module, datamodule=data)
assert trainer.world_size == 2
"""


def test_of_two_processes_the_first_explains_and_the_other_waits(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO)
    for ended in finish_two(script, str(tmp_path)):
        assert ended.returncode == 0, ended.stderr[-2000:]
    assert (tmp_path / "explained-0").read_text().split() == ["1", "5", "5"]
    assert (tmp_path / "explained-1").read_text().split() == ["1"]  # whether it can be, at first
    assert len(list((tmp_path / "explanations").glob("*.png"))) == 2
