"""An option is declared once: its type, default and range, for configs and for Python."""

import copy
import math
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Literal, Union

import numpy as np
import pytest
import torch

from configs import schema
from configs.schema import ConfigError, load_config, load_data_config
from lightning_modules import CLASSIFIERS
from lightning_modules.callbacks import RelevanceTracker
from lightning_modules.data import DATAMODULES, DataModule, DigitsDataModule
from lightning_modules.models.checkpoints import read_checkpoint
from lightning_modules.models.published.text_classifiers import PublishedBert
from lightning_modules.utils.options import Checked, Range, accepts, arguments, describe
from relprop.errors import UnknownName
from tests.helpers.processes import ROOT, finish

Share = Annotated[float, Range(0, 1)]


# ---------------------------------------------------------------------------------- ranges


@pytest.mark.parametrize(
    ("range_", "words", "inside", "outside"),
    [
        (Range(0, 1), "from 0 to 1", [0, 0.5, 1], [-0.1, 1.1, math.nan]),
        (Range(1), "of at least 1", [1, 2**40, math.inf], [0, -1, math.nan]),
        (Range(above=0, most=1), "above 0 and at most 1", [1e-9, 1], [0, -1, 1.1, math.nan]),
        (Range(0, below=math.inf), "of at least 0 and finite", [0, 1e300], [-1, math.inf]),
        (Range(0, below=2), "of at least 0 and below 2", [0, 1.9], [2, -1]),
        (Range(0, 2**32 - 1), "from 0 to 4294967295", [0, 2**32 - 1], [-1, 2**32]),
    ],
    ids=str,
)
def test_a_range_says_itself_in_words(range_, words, inside, outside):
    assert str(range_) == words
    assert all(value in range_ for value in inside)
    assert not any(value in range_ for value in outside)


def test_a_union_is_described_in_one_order_however_it_is_written():
    for type_ in (Union[float, int, None], Union[None, int, float]):  # noqa: UP007 - as Trainer's
        assert describe(type_) == "int or float or null"


@pytest.mark.parametrize(
    ("type_", "words", "accepted", "refused"),
    [
        (Share, "float from 0 to 1", [0, 0.5, "${x.y}", "???"], [1.5, True, None, "x", [0.5]]),
        (Share | None, "float from 0 to 1 or null", [None, 1], [-1, 2.0]),
        (Annotated[int | None, Range(1)], "int of at least 1 or null", [None, 3], [0, 1.5]),
        (list[Share], "list of float from 0 to 1", [[], [0, 1.0]], [[0, 1.5], 0.5, [None]]),
        (list[Share] | None, "list of float from 0 to 1 or null", [None, [1]], [[2]]),
        (dict[str, Share], "mapping of float from 0 to 1", [{"a": 1}], [{"a": 2}]),
        (
            Annotated[int | float | dict[str, int] | None, Range(above=0)],
            "int above 0 or float above 0 or mapping of int or null",
            [None, 1, 0.5, {"hours": 0}],
            [0, -0.5, "x"],
        ),
        (
            Annotated[int, Range(1)] | Literal["all"],
            'int of at least 1 or "all"',
            [1, "all"],
            [0, "some"],
        ),
    ],
)
def test_a_range_holds_wherever_it_stands_in_a_type(type_, words, accepted, refused):
    assert describe(type_) == words
    assert all(accepts(type_, value) for value in accepted)
    assert not any(accepts(type_, value) for value in refused)


# ----------------------------------------------------------------------- constructors, once


class Base(Checked):
    def __init__(self, size: Annotated[int, Range(1)] = 1, share: Share = 0.5, name: str = "a"):
        self.given = size, share, name


class Middle(Base):
    def __init__(self, root: str, *, name: str = "b", **options):
        super().__init__(name=name, **options)


class Derived(Middle):
    def __init__(self, *, shares: list[Share] | None = None, **options):
        super().__init__(**options)


class Closed(Derived):
    def __init__(self, root: str):
        super().__init__(root=root)


def test_the_options_of_a_class_are_those_that_its_constructors_hand_on():
    found = arguments(Derived)
    assert list(found) == ["shares", "root", "name", "size", "share"]
    assert found["name"].default == "b" and found["root"].default is found["root"].empty
    assert found["share"].annotation == Share and list(arguments(Closed)) == ["root"]
    assert list(arguments(type("Same", (Derived,), {}))) == list(found)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Base(0), "size: 0 is not accepted; accepted: int of at least 1"),
        (lambda: Base(1, 2.0), "share: 2.0 is not accepted; accepted: float from 0 to 1"),
        (lambda: Base("x"), 'size: "x" is not accepted; accepted: int of at least 1'),
        (lambda: Derived(root="a", size=-1), "size: -1 is not accepted; accepted: int of at"),
        (lambda: Derived(root="a", shares=(0, 2)), "shares: [0, 2] is not accepted; accepted: li"),
        (lambda: Base(size=np.int64(0)), "size: "),
        (lambda: RelevanceTracker("a", samples=0), "samples: 0 is not accepted; accepted: int of"),
        (lambda: RelevanceTracker("a", seed=2**32), "seed: 4294967296 is not accepted; accepted"),
    ],
)
def test_python_is_told_of_a_value_out_of_its_range(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value).startswith(message)


def test_python_may_give_what_stands_for_a_number_or_a_list():
    assert Base(np.int64(3), np.float32(0.5)).given[0] == 3
    Derived(root="a", shares=(0, 1))
    Derived(root="a", shares=None)
    made = Derived(root="a", size=2)
    assert copy.copy(made).given == made.given


ALL = [*CLASSIFIERS.items(), *DATAMODULES.items()]


@pytest.mark.parametrize(("name", "cls"), ALL, ids=[name for name, _ in ALL])
def test_a_class_names_no_option_of_its_base_but_to_change_the_default(name, cls):
    classes = [base for base in cls.__mro__ if base.__module__.startswith("lightning_modules.")]
    for derived in (base for base in classes if "__init__" in vars(base)):
        (_, *above), own = derived.__mro__, vars(derived)["__init__"].__code__
        inherited = next((arguments(base) for base in above if "__init__" in vars(base)), {})
        for option in own.co_varnames[1 : own.co_argcount + own.co_kwonlyargcount]:
            before = inherited[option].default if option in inherited else Parameter.empty
            changed = arguments(derived)[option].default != before
            assert changed or before is Parameter.empty, f"{derived.__name__}: {option}"


@pytest.mark.parametrize("kind", DATAMODULES)
def test_every_data_set_has_the_options_of_its_base(kind):
    options = arguments(DATAMODULES[kind])
    assert {"batch_size", "num_workers", "seed"} <= options.keys()
    if issubclass(DATAMODULES[kind], DATAMODULES["reviews"].__base__):
        assert {"tokenizer", "vocab_size", "max_length", "overlap"} <= options.keys()


# ---------------------------------------------------------------------------------- configs

DIGITS = ["run_dir=a", "data.train_size=8"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.warmup=1.5", "model.warmup: 1.5 is not accepted; accepted: float from 0 to 1"),
        ("model.lr=-1", "model.lr: -1 is not accepted; accepted: float of at least 0 and finite"),
        ("data.batch_size=0", "data.batch_size: 0 is not accepted; accepted: int of at least 1"),
        ("tracker.samples=0", "tracker.samples: 0 is not accepted; accepted: int of at least 1"),
        ("seed=-1", "seed: -1 is not accepted; accepted: int from 0 to 4294967295"),
        ("data.batch_size=${data.num_workers}", "data.batch_size: 0 is not accepted; accepted:"),
        (
            "trainer.gradient_clip_val=-1",
            "trainer.gradient_clip_val: -1 is not accepted; accepted: int of at least 0 or float "
            "of at least 0 or null",
        ),
    ],
)
def test_a_config_is_told_of_a_value_out_of_its_range(override, message):
    with pytest.raises(ConfigError) as error:
        load_config(Path(schema.__file__).with_name("vit_digits.yaml"), [*DIGITS, override])
    assert str(error.value).startswith(message)


def test_ranges_of_training_do_not_matter_to_the_data_of_a_run(tmp_path):
    """A run of a version that accepted them."""
    path = tmp_path / "config.yaml"
    written = "{run_dir: a, model: {kind: vit, layer_decay: 1.1}, data: {kind: digits}}"
    path.write_text(written)
    with pytest.raises(ConfigError, match="model.layer_decay: 1.1 is not accepted"):
        load_config(path, [])
    assert load_data_config(path, [])["kind"] == "digits"
    for overrides in (["data.kind=digits"], []):
        with pytest.raises(ConfigError, match="^data.val_size: 0 is not accepted"):
            load_data_config(path if not overrides else None, [*overrides, "data.val_size=0"])


@pytest.mark.parametrize("section", ["model", "data"])
def test_an_unknown_kind_of_a_config_is_an_unknown_name(tmp_path, section):
    path = tmp_path / "config.yaml"
    path.write_text("{run_dir: a, model: {kind: vit}, data: {kind: digits}}")
    with pytest.raises(ConfigError, match=f'^{section}.kind: "mine" is unknown; accepted: ') as e:
        load_config(path, [f"{section}.kind=mine"])
    assert isinstance(e.value, UnknownName)


STRANGERS = """\
from typing import Annotated
from configs.schema import ConfigError, load_config
from lightning_modules.data import DATAMODULES, DataModule
from lightning_modules.utils.options import Range

@DATAMODULES.register("waves")
class Waves(DataModule):
    def __init__(self, *, waves: Annotated[int, Range(1)] = 3, **options):
        super().__init__(**options)
        self.made = waves, self.batch_size, self.num_workers, self.seed

def load(*overrides):
    text = "{run_dir: a, model: {kind: vit}, data: {kind: waves}}"
    with open("a.yaml", "w") as file:
        file.write(text)
    return load_config("a.yaml", overrides)

data = dict(load("data.waves=5", "data.batch_size=7", "seed=4").data)
assert DATAMODULES[data.pop("kind")](**data).made == (5, 7, 0, 4), data
for override in ("data.waves=0", "data.batch_size=0", "data.wave=1"):
    try:
        load(override)
    except ConfigError as error:
        print(error)
try:
    Waves(waves=0)
except ValueError as error:
    print(error)
"""


def test_a_strangers_data_set_has_its_bases_options_and_its_own(tmp_path):
    """In a process of its own, so that it is registered nowhere else."""
    script = tmp_path / "strangers.py"
    script.write_text(STRANGERS)
    run = finish(script, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert run.stdout.splitlines() == [
        "data.waves: 0 is not accepted; accepted: int of at least 1",
        "data.batch_size: 0 is not accepted; accepted: int of at least 1",
        "data.wave: unknown key, did you mean waves?; accepted: kind, waves, batch_size, "
        "num_workers, task, sampler, seed",
        "waves: 0 is not accepted; accepted: int of at least 1",
    ], run.stderr


# ------------------------------------------------------------------------------ checkpoints

INPUT = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0}
TINY = {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}


def test_hyper_parameters_are_all_arguments_with_their_values():
    given = {"name": "vit_tiny_patch16_224", "model_options": TINY, "lr": 0.5, "mixup": 0.2}
    model = CLASSIFIERS["vit"](["a", "b"], INPUT, **given)
    expected = {name: argument.default for name, argument in arguments(type(model)).items()}
    assert dict(model.hparams) == expected | given | {
        "class_names": ["a", "b"],
        "input_config": INPUT,
    }
    assert model.kind == "vit" and model.mix is not None


def test_a_model_that_was_given_is_no_hyper_parameter():
    backbone = torch.nn.Linear(2, 2)
    model = PublishedBert(["a", "b"], {}, backbone, "multiclass")
    assert model.backbone is backbone and model.kind == "bert"
    assert "backbone" not in model.hparams


def test_a_checkpoint_of_a_kind_that_is_not_registered_says_so(tmp_path):
    path = tmp_path / "a.ckpt"
    torch.save({"kind": "sound", "state_dict": {}, "hyper_parameters": {}}, path)
    with pytest.raises(UnknownName) as error:
        read_checkpoint(path)
    assert str(error.value) == (
        f"{path}: its model is of the kind 'sound'; accepted: {', '.join(CLASSIFIERS)}"
    )


def test_a_class_is_registered_by_its_decorator():
    assert DATAMODULES["digits"] is DigitsDataModule and issubclass(DigitsDataModule, DataModule)
    with pytest.raises(ValueError, match="the data set 'digits' is registered already"):
        DATAMODULES.register("digits")(type("Other", (DataModule,), {}))
