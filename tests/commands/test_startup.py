"""Help, the printed config and wrong options import nothing that takes seconds."""

import subprocess
import sys
from enum import Enum

import pytest
import timm
from lightning import Trainer
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import StrategyRegistry
from lightning.pytorch.trainer.setup import _determine_batch_limits
from lightning.pytorch.utilities.enums import GradClipAlgorithmType
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from timm.models import get_deprecated_models

from configs import libraries
from configs.sections import make_schema
from configs.signatures import Declared, Source, Unknown
from lightning_modules import CLASSIFIERS
from lightning_modules.callbacks import CALLBACKS, RelevanceTracker
from lightning_modules.data import DATAMODULES
from lightning_modules.export import EXPORTS
from lightning_modules.loggers import LOGGERS
from lightning_modules.models import BESIDE
from lightning_modules.protocols import BASELINES, PROTOCOLS
from lightning_modules.utils import timm_names
from lightning_modules.utils.options import Range, accepts, arguments, describe, show
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
    "train.py patience=0": 2,
    "train.py model.class_weights=equal": 2,
    "train.py model.lora.rankk=4": 2,
    "train.py model.weights=nowhere": 2,
    "train.py data.marker.share=2": 2,
    "train.py --config configs/bert_dape.yaml model.dape.bias=none_": 2,
    "train.py --config configs/few_shot_digits.yaml data.way=1": 2,
    "train.py --config configs/graph_edges.yaml model.layers=XYZ": 2,
    "train.py --config configs/vit_sats.yaml model.previous=nowhere": 2,
    "train.py --config configs/deit_image_folder.yaml data.root=nowhere": 2,
    "train.py --import nowhere": 2,
    "train.py guidance.loss=nonsense": 2,
    "train.py guidance.method=nonsense": 2,
    "train.py tracker.start_layer=-1": 2,
    "train.py trainer.devices=all": 2,
    "train.py trainer.max_time=1h": 2,
    "train.py trainer.max_time.weeeks=1": 2,
    "train.py trainer.max_epochs=many": 2,
    "train.py loggers.wandbb.project=p": 2,
    "train.py --nonsense": 2,
    "train.py --print-config callbacks.EMAWeightAveraging.decay=0.9": 0,
    "train.py callbacks.EarlyStoping.monitor=a": 2,
    "train.py callbacks.EarlyStopping.monitorr=a": 2,
    "train.py callbacks.LearningRateMonitor.logging_interval=day": 2,
    "train.py trainer.strategy=dpp": 2,
    "train.py trainer.limit_val_batches=1.5": 2,
    "train.py model.name=vit_tiny": 2,
    "train.py export --help": 0,
    "train.py export nowhere --to onnx out": 2,
    "train.py export nowhere --to hf out": 2,
    "train.py export nowhere --to hf docs": 2,
    "explain.py --help": 0,
    "explain.py evaluate --help": 0,
    "explain.py --input a.png": 2,
    "explain.py --timm x --input a.png --method nonsense": 2,
    "explain.py --timm x --input a.png --format gif": 2,
    "explain.py --timm resnet50 --input README.md start_layer=first": 2,
    "explain.py --timm resnet50 --input README.md eps=-1": 2,
    "explain.py --timm resnet50 --input README.md rules=paperr": 2,
    "explain.py --timm resnet50 --input README.md level=token": 2,
    "explain.py --timm resnet50 --input README.md start_layre=1": 2,
    "explain.py --timm resnet50 --input README.md --device gpu": 2,
    "explain.py --timm resnet50 --input nowhere/*.png": 2,
    "explain.py --timm resnet50": 2,
    "explain.py --timm resnet50@nowhere.pth --input README.md": 2,
    "explain.py --hf ./nowhere --text a": 2,
    "explain.py --checkpoint nowhere --input README.md": 2,
    "explain.py --timm deit --input README.md": 2,
    "explain.py --timm resnet50 --input README.md --support nowhere": 2,
    "explain.py evaluate --timm resnet50 --protocol sanity data.kind=digits data.seed=-1": 2,
    "explain.py evaluate --timm resnet50 --protocol sanity data.kind=sst data.root=nowhere": 2,
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
EACH_CONFIG = """
import sys
import train
for path in sys.argv[1:]:
    try:
        train.main(["--print-config", "--config", path])
    except SystemExit as ended:
        assert ended.code == 2
    assert not set(sys.modules) & set({heavy}), path
"""
REGISTRIES = {
    ("lightning_modules.models", "CLASSIFIERS.register"): CLASSIFIERS,
    ("lightning_modules.data", "DATAMODULES.register"): DATAMODULES,
    ("lightning_modules.loggers", "LOGGERS.register"): LOGGERS,
    ("lightning_modules.callbacks", "CALLBACKS.register"): CALLBACKS,
    ("lightning_modules.models", "BESIDE.register"): BESIDE,
    ("lightning_modules.protocols", "PROTOCOLS.register"): PROTOCOLS,
    ("lightning_modules.export", "EXPORTS.register"): EXPORTS,
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


def test_no_config_imports_anything_heavy():
    configs = sorted(map(str, (ROOT / "configs").glob("*.yaml")))
    assert len(configs) > 20
    ended = subprocess.run(
        [sys.executable, "-c", EACH_CONFIG.format(heavy=HEAVY), *configs],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    for line in ended.stderr.strip().splitlines():  # of those that need the data of their users
        assert line.endswith("missing; give a value in the file or key=value")


@pytest.mark.parametrize(("module", "decorator"), REGISTRIES)
def test_names_that_are_read_are_those_that_are_registered(module, decorator):
    packages = (module, "lightning.") if module == "lightning_modules.callbacks" else (module,)
    own = [
        name
        for name, thing in REGISTRIES[module, decorator].items()
        if getattr(thing, "function", thing).__module__.startswith(packages)
    ]
    assert list(Declared(module, decorator)) == own


def same_options(read: type, real: type, section: str) -> None:
    """Names, defaults, what is accepted and how it is described."""
    read, real = arguments(read), arguments(real)
    assert list(read) == list(real)
    for name, argument in real.items():
        unknown = isinstance(read[name].default, Unknown)  # which no config can give
        assert unknown or read[name].default == argument.default, name
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
    [(*key, name) for key in list(REGISTRIES)[:4] for name in REGISTRIES[key]],
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
    make_schema("trainer", Source.of(module).stand_in(real.__name__))


def test_values_are_those_that_lightning_accepts():
    assert {*libraries.ACCELERATORS} - {"auto", "gpu"} == set(AcceleratorRegistry)
    assert {*libraries.STRATEGIES} - {"auto"} == set(StrategyRegistry)
    types = libraries.values_of_lightning()
    for key, type_ in types.items():
        section, name = key.rsplit(".", 1)
        real = Trainer if section == "trainer" else CALLBACKS[section.partition(".")[2]]
        default = arguments(real)[name].default
        if not isinstance(type_, Range) and not isinstance(default, Enum):
            assert accepts(type_, default), key
    for algorithm in GradClipAlgorithmType:
        assert accepts(types["trainer.gradient_clip_algorithm"], algorithm.value.upper())
    for name in ("BatchSizeFinder", "LearningRateFinder"):
        words = types[f"callbacks.{name}.mode"]
        assert describe(words) == " or ".join(map(show, CALLBACKS[name].SUPPORTED_MODES))


@pytest.mark.parametrize("value", [0, 1, 3, 0.0, 0.5, 1.0, 2.0, -1, -0.5, 1.5])
def test_numbers_of_batches_are_those_that_lightning_accepts(value):
    lightning_accepts = True
    try:
        _determine_batch_limits(value, "limit_val_batches")
    except MisconfigurationException:
        lightning_accepts = False
    assert accepts(libraries.BATCHES, value) == lightning_accepts


def test_names_of_timm_that_are_read_are_those_that_are_registered(monkeypatch):
    names, deprecated = timm_names.read_names()
    places = {name: timm.models.model_entrypoint(name).__module__ for name in timm.list_models()}
    own = {name for name, place in places.items() if place.startswith("timm.")}  # no other test's
    assert set(names) == own and set(deprecated) == set(get_deprecated_models())
    monkeypatch.delitem(sys.modules, "timm")
    given = [names[0], f"{names[-1]}.tag_in1k", deprecated[0], "vit_tiny", "", "hf-hub:a/b", "a.b"]
    found = [timm_names.is_timm_name(name) for name in given]
    assert found == [timm.is_model(name) for name in given]
