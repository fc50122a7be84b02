"""The tracker explains what the module decides: what it does around its classifier is seen."""

import logging
import random

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import relprop
from lightning_modules.callbacks import RelevanceTracker
from tests.helpers import strangers
from tests.helpers.runs import assert_identical
from tests.helpers.strangers import Pictures, Reviews, fit, timm_vit, watched_batch

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Calling(Pictures):
    """Decides by its forward."""

    def logits_and_labels(self, batch):
        return self(batch[0]), batch[1]

    def forward(self, x):
        return self.model(x)


class Scaling(Calling):
    def forward(self, x):
        return self.model(x.sub_(5) * 3)  # into what it is given


class Cooled(Calling):
    def forward(self, x):
        return self.model(x) / 2


class Wrapper(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = timm_vit()

    def forward(self, x):
        return self.net(3 * x)


class Wrapping(Pictures):
    """No forward, and one around its classifier."""

    def __init__(self):
        super().__init__(Wrapper())


class Taught(Calling):
    """A body and a head of its own, and a teacher, which is a whole classifier."""

    def __init__(self):
        super().__init__(timm_vit(num_classes=0))
        self.head = torch.nn.Linear(24, 3)
        self.teacher = timm_vit(depth=1).requires_grad_(False)

    def forward(self, x):
        return self.head(self.model(x))


class Headed(Calling):
    """Takes the scores of a classifier for features."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3, 3)

    def forward(self, x):
        return self.head(self.model(x))


class Masking(Reviews):
    """Hides the padding from its classifier by itself."""

    def forward(self, input_ids, attention_mask=None):
        mask = (input_ids != strangers.PAD).long()
        return self.bert(input_ids=input_ids, attention_mask=mask).logits


@pytest.mark.parametrize(
    ("module", "told", "message"),
    [
        (Scaling, {}, "Scaling.forward gives 'model' something else .*model='forward', .* inputs="),
        (Scaling, {"model": "model"}, "Scaling.forward gives 'model' something else than is found"),
        (Cooled, {}, "Cooled.forward returns other scores than 'model'; accepted: model='forward'"),
        (Headed, {}, "Headed.forward returns other scores than 'model'; accepted: model='forward'"),
        (Taught, {}, "Taught.forward does not call 'teacher', the only .* accepted: model='forwa"),
        (Wrapping, {}, "self.model gives 'model.net' something else .* accepted: model='model', "),
    ],
)
def test_what_a_module_does_around_its_classifier_is_not_left_out(tmp_path, module, told, message):
    with pytest.raises(MisconfigurationException, match=message):
        fit(tmp_path, module(), RelevanceTracker(watched_batch(), **told), max_epochs=1)


@pytest.mark.parametrize(
    ("module", "name"),
    [(Scaling, "forward"), (Cooled, "forward"), (Taught, "forward"), (Wrapping, "model")],
)
def test_what_the_refusal_names_explains_all_of_it(tmp_path, module, name):
    lightning.seed_everything(0, verbose=False)
    module, (x, y) = module(), watched_batch()
    tracker = RelevanceTracker((x, y), model=name)
    fit(tmp_path, module, tracker, max_epochs=1)
    part = module if name == "forward" else module.get_submodule(name)
    expected = relprop.explain(part, x.clone(), y).relevance
    torch.testing.assert_close(tracker.last_maps, expected)


def test_a_mask_that_the_module_makes_is_not_left_out(tmp_path):
    ids = torch.tensor([[1, 20, 21, 2, 0, 0], [1, 22, 23, 24, 25, 2]])
    with pytest.raises(MisconfigurationException, match="Masking.forward gives 'bert' something"):
        fit(tmp_path, Masking(), RelevanceTracker(ids), max_epochs=1)
    batch = {"input_ids": ids, "attention_mask": (ids != strangers.PAD).long()}
    fit(tmp_path, Masking(), RelevanceTracker(batch), max_epochs=1)


class Probabilities(Calling):
    def forward(self, x):
        return self.model(x).softmax(dim=-1)


class OfBatches(Calling):
    """Takes a whole batch, and returns a loss, too."""

    def logits_and_labels(self, batch):
        return self(batch)["logits"], batch[1]

    def forward(self, batch):
        x, y = batch
        logits = self.model(x)
        return {"loss": torch.nn.functional.cross_entropy(logits, y), "logits": logits}


class Hooked(Calling):
    """Its classifier has hooks, which run in every call of it."""

    def __init__(self):
        super().__init__()
        self.model.register_forward_pre_hook(lambda part, args: (args[0] * 3,))
        self.model.register_forward_hook(lambda part, args, output: output * 3)


class Elsewhere(Calling):
    """A forward that the batch does not fit, for something else."""

    def logits_and_labels(self, batch):
        return self.model(batch[0]), batch[1]

    def forward(self, pixels, *, times):
        return self.model(pixels * times)


@pytest.mark.parametrize(
    ("module", "precision"),
    [
        (Calling, "bf16-mixed"),
        (Probabilities, "bf16-true"),
        (OfBatches, "32-true"),
        (Hooked, "32-true"),
        (Elsewhere, "32-true"),
    ],
)
def test_a_module_that_decides_as_its_classifier_is_explained_by_it(tmp_path, module, precision):
    lightning.seed_everything(0, verbose=False)
    module, tracker = module(), RelevanceTracker(watched_batch())
    fit(tmp_path, module, tracker, max_epochs=1, precision=precision)
    assert tracker.foreign.adopted.backbone is module.model


def test_the_line_at_the_start_says_what_is_explained(tmp_path, caplog):
    caplog.set_level(logging.INFO, "lightning.pytorch")
    for source in (watched_batch(), watched_batch()[0]):
        fit(tmp_path, Calling(), RelevanceTracker(source), max_epochs=1)
    first, second = (x.message for x in caplog.records if "RelevanceTracker" in x.message)
    called = "RelevanceTracker explains 'model' (VisionTransformer) for the "
    assert first == f"{called}labels (number 2 of a list of 2)"
    assert second == f"{called}predicted classes alone (no labels)"


class Counting(Calling):
    """A forward that counts, keeps, logs and draws random numbers."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(3, affine=False)
        self.register_buffer("calls", torch.zeros(()))
        self.seen, self.count, self.latest, self.by_name = [], 0, None, {}
        self.generators = [np.random.default_rng(0), np.random.RandomState(0), random.Random(0)]
        self.generator = torch.Generator()

    def logits_and_labels(self, batch):
        return self(batch[0]), batch[1]

    def forward(self, x):
        self.calls += 1
        self.count += 1
        self.seen.append(x.mean())
        self.by_name[self.count] = x.std()
        drawn = [x.random() for x in self.generators] + [torch.rand(1, generator=self.generator)]
        self.latest = x + torch.rand(1) + sum(map(float, drawn))
        self.log("mean", x.mean())
        return self.model(x) + 0 * self.norm(x).sum() + 0 * self.count


@pytest.mark.parametrize("model", [None, "forward"])
def test_what_a_forward_counts_keeps_and_logs_is_that_of_training_alone(tmp_path, model):
    def trained(*callbacks):
        lightning.seed_everything(0, verbose=False)
        module = Counting()
        trainer = fit(tmp_path, module, *callbacks)
        own = ("seen", "count", "latest", "by_name")
        metrics = {k: v for k, v in trainer.callback_metrics.items() if "relevance" not in k}
        state = {name: getattr(module, name) for name in own}
        assert "log" not in vars(module)
        return module.state_dict(), state, metrics, torch.rand(3)

    tracker = RelevanceTracker(watched_batch(), model=model)
    assert_identical(trained(tracker), trained())
    assert tracker.last_maps.any()
