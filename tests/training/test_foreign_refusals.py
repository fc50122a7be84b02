"""What the tracker refuses in a project that is not ours, each in one line."""

import logging
import threading

import lightning
import pytest
import timm
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, IterableDataset

from lightning_modules.callbacks import RelevanceTracker
from lightning_modules.callbacks.sources import draw
from lightning_modules.utils.errors import InputError
from tests.helpers import strangers
from tests.helpers.strangers import Data, Pictures, Plain, TwoModels, loader, timm_vit

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Nothing(Plain):
    """No classifier, and no forward."""

    def __init__(self):
        super().__init__()
        self.part = torch.nn.Linear(2, 2)


class Convolutional(Pictures):
    def __init__(self):
        super().__init__(timm.create_model("test_resnet", num_classes=3))


class Threaded(IterableDataset):
    def __init__(self):
        self.lock = threading.Lock()

    def __iter__(self):
        return iter(strangers.Squares())


IMAGE = torch.zeros(2, 3, strangers.SIDE, strangers.SIDE)


@pytest.mark.parametrize(
    ("module", "source", "told", "message"),
    [
        (TwoModels, (IMAGE,), {}, "has 2 classifiers, 'model', 'teacher.of_it'; accepted: model="),
        (Nothing, (IMAGE,), {}, "no classifier of timm or Hugging Face, and no forward; accepted"),
        (Pictures, (IMAGE,), {"model": "net"}, "model is 'net', .* no such module; accepted: 'for"),
        (Pictures, (3, IMAGE), {}, "number 2 of a tuple of 2 is a tensor .*: it may be an input"),
        (Pictures, {"a": IMAGE, "b": IMAGE}, {}, "a mapping of 'a', 'b' goes .* accepted: inputs="),
        (Pictures, 3, {}, "source is a int; accepted: a batch, a loader or a data set"),
        (Pictures, [], {}, "the data set has no samples; accepted: a batch, a loader or"),
        (Pictures, IMAGE.double()[..., 0], {}, "inputs are a tensor .2, 3, 32. of float64; accept"),
        (Pictures, (IMAGE,), {"class_names": ["a"]}, "class_names has 1 names; accepted: 3"),
        (Pictures, (IMAGE,), {"labels": lambda b: b[0]}, "labels= gives a tensor .*: integers .2."),
        (Pictures, (IMAGE,), {"normalisation": (1, [1, 2])}, "accepted: .mean, std., a number"),
        (Pictures, (IMAGE,), {"start_layer": 7}, "start_layer is 7; accepted: 0 to 1$"),
        (Convolutional, (IMAGE,), {}, "a method that needs none, such as attnlrp and lrp$"),
        (Pictures, (IMAGE,), {"inputs": lambda b: b["x"]}, "inputs=: .*; accepted: a function of"),
        (Pictures, (IMAGE,), {"labels": lambda b: b["y"]}, "labels=: .*; accepted: a function of"),
        (Pictures, (IMAGE[:, :2],), {}, "RelevanceTracker: .*; accepted: a model that can be expl"),
        (Pictures, (IMAGE, torch.tensor([9, 0])), {}, "a label is 9; accepted: 0 to 2, or less"),
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


@pytest.mark.parametrize(
    ("option", "accepted"),
    [
        ({"model": 3}, "model: 3 is not accepted; accepted: the name of an attribute, or None"),
        ({"inputs": "x"}, 'inputs: "x" is not accepted; accepted: a function of a batch, or None'),
        ({"labels": "y"}, 'labels: "y" is not accepted; accepted: a function of a batch, or None'),
        ({"class_names": 5}, "class_names: 5 is not accepted; accepted: a list of names, or None"),
        ({"class_names": "abc"}, 'class_names: "abc" is not accepted; accepted: a list of names'),
        ({"class_names": [0, 1]}, "class_names: [0, 1] is not accepted; accepted: a list of nam"),
        ({"normalisation": 0.5}, "normalisation: 0.5 is not accepted; accepted: (mean, std), or"),
        ({"tokenizer": "bert"}, 'tokenizer: "bert" is not accepted; accepted: a tokenizer of Hug'),
        ({"run_dir": 3}, "run_dir: 3 is not accepted; accepted: a path, or None"),
        ({"protocols": "sanity"}, 'protocols: "sanity" is not accepted; accepted: a list of names'),
        ({"protocols": ["nope"]}, "protocols has 'nope'; accepted: "),
        ({"method": "nope"}, "method is 'nope'; accepted: "),
        ({"source": [loader("pictures")] * 2}, "source has 2 loaders; accepted: a batch, a loader"),
    ],
)
def test_an_argument_of_another_kind_is_refused_when_it_is_given(option, accepted):
    with pytest.raises(ValueError) as caught:
        RelevanceTracker(**option)
    assert str(caught.value).startswith(accepted) and "\n" not in str(caught.value)


def test_a_folder_in_the_place_of_the_source_is_refused():
    with pytest.raises(ValueError, match="source is 'runs/a'; accepted: .*, or run_dir='runs/a'"):
        RelevanceTracker("runs/a")


def a_stream_of_the_network():
    yield from strangers.Squares()


@pytest.mark.parametrize(
    "source", [a_stream_of_the_network(), DataLoader(Threaded(), batch_size=4)]
)
def test_a_source_that_cannot_be_read_without_a_trace_is_refused(source):
    message = "source cannot be read .* accepted: a batch, or a list of samples$"
    with pytest.raises(InputError, match=message):
        draw(source, 3, seed=0)
