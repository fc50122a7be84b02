"""Help, the printed config and wrong options import nothing that takes seconds."""

import subprocess
import sys

import pytest
from lightning import Trainer

from configs.sections import TRAINER_RANGES, make_schema
from configs.signatures import Declared, Source
from lightning_modules import CLASSIFIERS
from lightning_modules.callbacks import RelevanceTracker
from lightning_modules.data import DATAMODULES
from lightning_modules.loggers import LOGGERS
from lightning_modules.protocols import BASELINES, PROTOCOLS
from lightning_modules.utils.options import accepts, arguments, describe
from relprop import METHODS
from tests.helpers.processes import ROOT

HEAVY = ("torch", "timm", "transformers", "lightning", "datasets")
CALLS = {
    "train.py --help": 0,
    "train.py --print-config": 0,
    "train.py --print-config --config configs/bert_reviews.yaml model.lr=1e-4": 0,
    "train.py model.lrr=1": 2,
    "train.py model.kind=cnn": 2,
    "train.py data.batch_size=0": 2,
    "train.py trainer.max_epochs=many": 2,
    "train.py loggers.wandbb.project=p": 2,
    "train.py --nonsense": 2,
    "explain.py --help": 0,
    "explain.py evaluate --help": 0,
    "explain.py --input a.png": 2,
    "explain.py --timm x --input a.png --method nonsense": 2,
    "explain.py --timm x --input a.png --format gif": 2,
    "explain.py --timm x --input a.png start_layer=first": 2,
    "explain.py --checkpoint nowhere --input a.png": 2,
    "explain.py evaluate --timm x --protocol nonsense": 2,
    "explain.py evaluate --timm x --protocol sanity --method nonsense": 2,
}
SCRIPT = """
import runpy, sys
sys.argv = {words}
sys.path.insert(0, ".")
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("HEAVY", *sorted(set(sys.modules) & set({heavy})))
"""
REGISTRIES = {
    ("lightning_modules.models", "CLASSIFIERS.register"): CLASSIFIERS,
    ("lightning_modules.data", "DATAMODULES.register"): DATAMODULES,
    ("lightning_modules.loggers", "LOGGERS.register"): LOGGERS,
    ("lightning_modules.protocols", "PROTOCOLS.register"): PROTOCOLS,
    ("lightning_modules.protocols", "baseline"): BASELINES,
    ("relprop.methods", "method"): METHODS,
}
VALUES = (None, True, -1, 0, 1, 2, 2**40, 0.5, -0.5, "a", "linear", [], ["a"], [1], {}, {"a": 1})


@pytest.mark.parametrize("call", CALLS)
def test_nothing_heavy_is_imported(call):
    script = SCRIPT.format(words=call.split(), heavy=HEAVY)
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == CALLS[call], ended.stderr[-2000:]
    assert ended.stdout.splitlines()[-1] == "HEAVY"
    if CALLS[call]:
        (line,) = ended.stderr.strip().splitlines()
        assert line.startswith(call.split()[0])


@pytest.mark.parametrize(("module", "decorator"), REGISTRIES)
def test_names_that_are_read_are_those_that_are_registered(module, decorator):
    own = [
        name
        for name, thing in REGISTRIES[module, decorator].items()
        if getattr(thing, "function", thing).__module__.startswith(module)
    ]
    assert list(Declared(module, decorator)) == own


def same_options(read: type, real: type, section: str) -> None:
    """Names, defaults, what is accepted and how it is described."""
    read, real = arguments(read), arguments(real)
    assert list(read) == list(real)
    for name, argument in real.items():
        assert read[name].default == argument.default, name
        assert read[name].kind == argument.kind, name
        if argument.annotation is argument.empty:
            assert read[name].annotation is argument.empty
            continue
        types = read[name].annotation, argument.annotation
        assert describe(types[0]) == describe(types[1]), name
        for value in VALUES:
            assert accepts(types[0], value) == accepts(types[1], value), (name, value)


@pytest.mark.parametrize(
    ("module", "decorator", "name"),
    [(*key, name) for key in list(REGISTRIES)[:3] for name in REGISTRIES[key]],
)
def test_signatures_that_are_read_are_those_of_the_classes(module, decorator, name):
    where, called = dict.__getitem__(Declared(module, decorator), name)
    read = Source.of(where).stand_in(called)  # what is imported would be asked itself
    real = REGISTRIES[module, decorator][name]
    assert read is not real
    same_options(read, real, name)


@pytest.mark.parametrize(
    ("module", "real"),
    [("lightning", Trainer), ("lightning_modules.callbacks", RelevanceTracker)],
)
def test_signatures_of_the_trainer_and_the_tracker(module, real):
    same_options(Source.of(module).stand_in(real.__name__), real, module)
    ranges = TRAINER_RANGES if real is Trainer else None
    make_schema("trainer", Source.of(module).stand_in(real.__name__), ranges=ranges)
