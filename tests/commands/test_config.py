"""configs/schema.py: what a config becomes, and the one line that a wrong one gets."""

import os
import re
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from configs import sections
from configs.schema import ConfigError, load_config
from lightning_modules import CLASSIFIERS
from lightning_modules.callbacks import RelevanceTracker
from lightning_modules.data import DATAMODULES

CONFIGS = sorted(Path(sections.__file__).parent.glob("*.yaml"))
MINIMAL = "{run_dir: runs/a, model: {kind: vit, name: tiny}, data: {kind: digits}}"


class Classifier:
    def __init__(
        self,
        class_names: list[str],
        input_config: dict,
        name: str,
        lr: float = 1e-3,
        depth: int | None = None,
        pool: Literal["cls", "mean"] = "cls",
        extra: dict[str, Any] = {},  # noqa: B006 - a default to be copied
        untyped=None,
        **ignored: int,
    ) -> None: ...


class DataModule:
    def __init__(
        self,
        batch_size: int = 64,
        seed: int = 7,
        scale: list[float] = [0.5, 1.0],  # noqa: B006 - a default to be copied
        shuffle: bool = True,
    ) -> None: ...


class OtherDataModule:
    def __init__(self, *, root: str) -> None: ...


class Tracker:
    def __init__(self, run_dir: str, probes: int = 8) -> None: ...


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """load(text, *overrides): the config that a file of that text makes, for the classes above."""
    path = tmp_path_factory.mktemp("configs") / "a.yaml"

    def load(text: str | bytes, *overrides: str) -> DictConfig:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lightning_modules.models.CLASSIFIERS", {"vit": Classifier})
            kinds = {"digits": DataModule, "folder": OtherDataModule}
            patch.setattr("lightning_modules.data.DATAMODULES", kinds)
            patch.setattr("lightning_modules.callbacks.RelevanceTracker", Tracker)
            return load_config(path, overrides)

    load.path = path
    return load


# What a config becomes.


def test_a_config_is_complete(load):
    assert load(MINIMAL) == {
        "seed": 0,
        "task": "multiclass",
        "run_dir": "runs/a",
        "patience": None,
        "guidance": None,
        "distill": None,
        "on_nonfinite": "stop",
        "imports": [],
        "model": {
            "kind": "vit",
            "name": "tiny",
            "lr": 1e-3,
            "depth": None,
            "pool": "cls",
            "extra": {},
            "untyped": None,
        },
        "data": {
            "kind": "digits",
            "batch_size": 64,
            "seed": 0,
            "scale": [0.5, 1.0],
            "shuffle": True,
        },
        "tracker": {"probes": 8},
        "trainer": {},
        "loggers": {"tensorboard": {}},
        "callbacks": {},
    }


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("model.lr=3e-4", "model.lr", 3e-4),
        ("model.lr=1", "model.lr", 1.0),
        ("model.depth=12", "model.depth", 12),
        ("model.depth=null", "model.depth", None),
        ("model.pool=mean", "model.pool", "mean"),
        ("model.name='3'", "model.name", "3"),
        ("model.name=2024-01-31", "model.name", "2024-01-31"),
        ("model.name=a=b", "model.name", "a=b"),
        ("model.extra.a.b=[1, x]", "model.extra", {"a": {"b": [1, "x"]}}),
        ("model={lr: 2.0}", "model.name", "tiny"),
        (f"model.extra.a={[[]] * 30}", "model.extra", {"a": [[]] * 30}),
        ("data.scale=[0.1,1]", "data.scale", [0.1, 1.0]),
        ("data.shuffle=off", "data.shuffle", False),
        ("tracker=null", "tracker", None),
        ("trainer.max_epochs=3", "trainer", {"max_epochs": 3}),
        ("trainer.precision=bf16-mixed", "trainer.precision", "bf16-mixed"),
        ("trainer.devices=[0, 1]", "trainer.devices", [0, 1]),
        ("trainer.limit_val_batches=0.5", "trainer.limit_val_batches", 0.5),
    ],
)
def test_overrides_are_typed_by_yaml(load, override, key, value):
    section, _, name = key.partition(".")
    got = OmegaConf.to_container(load(MINIMAL, override))[section]
    got = got[name] if name else got
    assert got == value and type(got) is type(value)


def test_the_command_line_wins_over_the_file_and_the_file_over_the_schema(load):
    text = MINIMAL.replace("tiny", "tiny, lr: 0.5")
    assert load(text).model.lr == 0.5
    assert load(text, "model.lr=0.25").model.lr == 0.25
    assert load(text, "model.lr=0.25", "model.lr=0.125").model.lr == 0.125
    assert load(text, "tracker=null", "tracker.probes=2").tracker == {"probes": 2}


def test_a_seed_follows_the_experiments_unless_it_is_given(load):
    assert load(MINIMAL, "seed=3").data.seed == 3
    assert load(MINIMAL, "seed=3", "data.seed=4").data.seed == 4


def test_interpolations_become_values(load):
    config = load(
        MINIMAL,
        "run_dir=runs/${model.name}-${seed}",
        "trainer.max_epochs=${data.batch_size}",
        "model.lr=${data.scale.1}",
    )
    assert config.run_dir == "runs/tiny-0"
    assert config.trainer.max_epochs == 64
    assert config.model.lr == 1.0
    assert "$" not in OmegaConf.to_yaml(config)


def test_what_an_interpolation_becomes_has_the_type_of_its_key(load):
    with pytest.raises(ConfigError, match='^seed: "runs/a" is not accepted; accepted: int from 0'):
        load(MINIMAL, "data.seed=1", "seed=${run_dir}")


def test_the_default_of_a_class_is_not_shared(load):
    load(MINIMAL).data.scale.append(2.0)
    assert load(MINIMAL).data.scale == [0.5, 1.0]


@pytest.mark.parametrize(
    "text",
    ["", *"1e-3 1_e5 no null ???x 2024-01-31 5$ = # é 😀 \0".split(" "), " a\nb: ", "\x85", "\r"],
)
def test_a_saved_config_loads_to_itself(load, text):
    name = yaml.safe_dump(text, default_style='"').strip()
    config = load(MINIMAL, f"model.name={name}", f"model.extra={{{name}: [{name}]}}", "seed=3")
    assert config.model.name == text
    saved = OmegaConf.to_yaml(config)
    assert OmegaConf.to_yaml(load(saved)) == saved


# What is wrong with a config.


@pytest.mark.parametrize(
    ("override", "message"),
    [
        # Keys.
        (
            "modle.lr=1",
            "modle: unknown key, did you mean model?; accepted: seed, task, run_dir, patience,",
        ),
        ("model.lrr=1", "model.lrr: unknown key, did you mean lr?; accepted: kind, name, lr,"),
        ("a" * 5000 + "=1", "aaaaa"),
        ("data.root=a", "data.root: unknown key; accepted: kind, batch_size, seed, scale, shuffle"),
        ("data.kind=folder", "data.batch_size: unknown key; accepted: kind, root"),
        ("model.ignored=1", "model.ignored: unknown key; accepted: kind"),
        ("model={1: 2}", "model.1: unknown key; accepted: kind"),
        ("trainer.max_epoch=1", "trainer.max_epoch: unknown key, did you mean max_epochs or min"),
        ("model.class_names=[a]", "model.class_names: train.py sets it itself; leave it out"),
        ("tracker.run_dir=a", "tracker.run_dir: train.py sets it itself; leave it out"),
        ("trainer.logger=false", "trainer.logger: train.py sets it itself; leave it out"),
        # Kinds.
        ("model.kind=vitt", 'model.kind: "vitt" is unknown, did you mean vit?; accepted: vit'),
        ("data.kind=[a]", 'data.kind: ["a"] is unknown; accepted: digits, folder'),
        ("data.kind=null", "data.kind: missing; accepted: digits, folder"),
        # Types.
        ("seed=one", 'seed: "one" is not accepted; accepted: int'),
        ("seed=.nan", "seed: NaN is not accepted; accepted: int"),
        ("seed=1.0", "seed: 1.0 is not accepted; accepted: int"),
        ("seed=true", "seed: true is not accepted; accepted: int"),
        ("model=vit", 'model: "vit" is not accepted; accepted: mapping'),
        ("trainer=null", "trainer: null is not accepted; accepted: mapping"),
        ("tracker=[a]", 'tracker: ["a"] is not accepted; accepted: mapping or null'),
        ("tracker=???", 'tracker: "???" is not accepted; accepted: mapping or null'),
        ("model.lr=", "model.lr: null is not accepted; accepted: float"),
        ("model.lr.x=1", 'model.lr: {"x": 1} is not accepted; accepted: float'),
        ("model.name=no", "model.name: false is not accepted; accepted: str"),
        ("model.depth=x", 'model.depth: "x" is not accepted; accepted: int or null'),
        ("model.pool=max", 'model.pool: "max" is not accepted; accepted: "cls" or "mean"'),
        ("model.extra=1", "model.extra: 1 is not accepted; accepted: mapping of anything"),
        ("data.shuffle=2", "data.shuffle: 2 is not accepted; accepted: bool"),
        ("data.scale=1", "data.scale: 1 is not accepted; accepted: list of float"),
        ("data.scale=[1, [2]]", "data.scale: [1, [2]] is not accepted; accepted: list of float"),
        ("trainer.max_epochs=x", 'trainer.max_epochs: "x" is not accepted; accepted: int of'),
        ("trainer.precision=16.0", "trainer.precision: 16.0 is not accepted; accepted: 64 or 32"),
        ("trainer.max_time={days: x}", 'trainer.max_time: {"days": "x"} is not accepted; accepted'),
        ("model.lr=é", 'model.lr: "é" is not accepted; accepted: float'),
        ("model.lr=" + "x" * 99, f'model.lr: "{"x" * 76}... is not accepted; accepted: float'),
        ("trainer.plugins=x", 'trainer.plugins: "x" is not accepted; accepted: list or null'),
        ("trainer.precision=8", "trainer.precision: 8 is not accepted; accepted: 64 or 32 or 16"),
        # Values that are not there.
        ("run_dir=???", "run_dir: missing; give a value in the file or key=value"),
        ("model.lr=???", "model.lr: missing; give a value in the file or key=value"),
        ("run_dir='\\???'", "run_dir: missing; give a value in the file or key=value"),
        ("model={extra: {a: '???'}, name: '???'}", "model.extra.a, model.name: missing; give"),
        # Interpolations.
        ("run_dir=${sed}", "run_dir: ${sed}: no such key, did you mean seed?"),
        ("run_dir=${data.scale.2}", "run_dir: ${data.scale.2}: no such key"),
        ("run_dir=${run_dir}", 'run_dir: ${run_dir} is "${run_dir}"; accepted: a key with one,'),
        ("run_dir=a/${data.seed}", 'run_dir: ${data.seed} is "${seed}"; accepted: a key with one,'),
        ("run_dir=${tracker}", 'run_dir: ${tracker} is {"probes": 8}; accepted: a key with one,'),
        ("model=${data}", 'model: "${data}" is not accepted; accepted: mapping'),
        ("model.extra=${data}", 'model.extra: "${data}" is not accepted; accepted: mapping of any'),
        ("model.depth=${model.lr}", "model.depth: While dereferencing interpolation '${model"),
        ("trainer.max_epochs=${model.lr}", "trainer.max_epochs: 0.001 is not accepted; accepted:"),
        ("run_dir=${seed}${nope", 'override "run_dir=${seed}${nope", line 1: "${seed}${nope" is'),
        # Overrides.
        ("seed", 'override "seed" is not accepted; accepted: key.sub=value'),
        ("=1", 'override "=1" is not accepted; accepted: key.sub=value'),
        ("model..lr=1", 'override "model..lr=1" is not accepted; accepted: key.sub=value'),
        ("model[lr]=1", 'override "model[lr]=1" is not accepted; accepted: key.sub=value'),
        ("a" + ".a" * 20 + "=1", 'override "a.a'),
        ("seed=[1", 'override "seed=[1", line 1: while parsing a flow sequence expected'),
        ("model.extra={null: 1}", 'override "model.extra={null: 1}": Incompatible key type'),
    ],
)
def test_what_is_wrong_gets_one_line(load, override, message):
    text = MINIMAL.replace("digits", "digits, batch_size: 2")
    with pytest.raises(ConfigError) as error:
        load(text, override)
    assert str(error.value).startswith(message)
    assert "full_key" not in str(error.value) and len(str(error.value)) <= 2000


def test_options_without_a_default_must_be_given(load):
    with pytest.raises(ConfigError) as error:
        load("{model: {kind: vit}, data: {kind: folder}}")
    message = "data.root, model.name, run_dir: missing; give a value in the file or key=value"
    assert str(error.value) == message


@pytest.mark.parametrize(
    "value", ["${oc.env:HOME}", "${oc.decode:1}", "\\${seed}", "${${seed}}", "${"]
)
def test_nothing_in_a_config_is_executed(load, value):
    with pytest.raises(ConfigError) as error:
        load(f"seed: 1\nrun_dir: '{value}'\n")
    shown = value.replace("\\", "\\\\")
    assert str(error.value) == (
        f'{load.path}, line 2: "{shown}" is not accepted; accepted: plain ${{key}}'
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": null is no mapping; accepted: one with seed, task, run_dir, patience, on"),
        ("- a", ': ["a"] is no mapping'),
        ("a: 1\nb: [1\nc: 2", ", line 3: while parsing a flow sequence expected"),
        ("a: 1\nb: 2: 3", ", line 2: mapping values are not allowed here"),
        ("a: 1\n---\na: 2", ", line 2: expected a single document in the stream but found another"),
        ("seed: 1\nseed: 1", ", line 2: while constructing a mapping found duplicate key seed"),
        ("seed: 1\nmodel: {lr: 1, lr: 1}", ", line 2: while constructing a mapping found dup"),
        ("a: &b 1\nc: *b", ", line 2: the alias *b is not accepted; write the value out"),
        ("\n&a [*a]", ", line 2: the alias *a is not accepted"),
        ("a: !!python/object:os.system x", ", line 1: the tag tag:yaml.org,2002:python/object:os"),
        ("a: !!int x", ", line 1: the tag tag:yaml.org,2002:int is not accepted"),
        ("[" * 60_000, ", line 1: nested too deeply; accepted: 20 levels"),
        ("- " * 30_000, ", line 1: nested too deeply; accepted: 20 levels"),
        ("a: 0x" + "f" * 50_000, ": Exceeds the limit"),
        ("a: " + "9" * 50_000, ": Exceeds the limit"),
        ("a: 0x_", ": invalid literal for int"),
        ('a: "\\ud800"', ", line 1: while parsing a quoted scalar found invalid Unicode"),
        ("a: \0", ": unacceptable character #x0000"),
        ("a: [" + "1," * 20_000 + "]", ", line 1: YAML node expansion exceeds"),
        ("é" * 70_000, ": too long; accepted: 65536 characters"),
        (b"seed: \xff", ": 'utf-8' codec can't decode byte 0xff in position 6: invalid start byte"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_file_that_is_not_plain_yaml(load, text, message):
    with pytest.raises(ConfigError) as error:
        load(text)
    assert str(error.value).startswith(f"{load.path}{message}")


def test_a_missing_file_is_answered_with_those_that_are_there(load, monkeypatch):
    load(MINIMAL)
    monkeypatch.chdir(load.path.parent)
    with pytest.raises(ConfigError) as error:
        load_config("b.yaml", [])
    packaged = (os.path.relpath(path) for path in CONFIGS)
    assert str(error.value) == f"b.yaml: no such file; accepted: {', '.join([*packaged, 'a.yaml'])}"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (".", ".: Is a directory; accepted: a YAML file in UTF-8"),
        ("a\0b", r"a\x00b: embedded null byte; accepted: a YAML file in UTF-8"),
    ],
)
def test_a_path_that_is_no_file(path, message):
    with pytest.raises(ConfigError) as error:
        load_config(path, [])
    assert str(error.value) == message


# Whatever is thrown at it.


NAMES = "seed run_dir model data tracker trainer kind name lr extra scale max_epochs".split()
WORDS = "vit digits 1 1e-3 -.inf no ??? null a ${ ${seed} ${run_dir} << 0x 1:2 é".split()
MARKS = [*"-[]{},:?=|>&*!#.%$'\"\\ \n\t\x85", ": ", "\n  "]
scraps = st.lists(st.sampled_from(NAMES + WORDS + MARKS), max_size=12).map("".join)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | scraps
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner, max_size=3),
    ),
    max_leaves=5,
)
yaml_texts = st.text() | scraps | values.map(yaml.safe_dump)
keys = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(".".join) | scraps
free = st.just("model.extra.a") | st.just("model.name") | st.just("run_dir")
overrides = st.lists(st.text() | st.builds("{}={}".format, keys | free, yaml_texts), max_size=3)


@settings(deadline=None, max_examples=int(os.environ.get("CONFIG_EXAMPLES", 200)))
@given(text=st.just(MINIMAL) | yaml_texts, overrides=overrides)
def test_any_text_ends_in_a_config_or_in_one_line(load, text, overrides):
    try:
        config = load(text.encode(errors="surrogatepass"), *overrides)
    except ConfigError as error:
        assert str(error) and str(error).isprintable()
    else:
        saved = OmegaConf.to_yaml(config)
        assert OmegaConf.to_yaml(load(saved)) == saved


# The real classes and configs.


@pytest.mark.parametrize(
    ("section", "cls"),
    [("model", cls) for cls in CLASSIFIERS.values()]
    + [("data", cls) for cls in DATAMODULES.values()]
    + [("tracker", RelevanceTracker)],
)
def test_every_class_has_a_schema(section, cls):
    OmegaConf.structured(sections.make_schema(section, cls))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads(path, tmp_path):
    """With what the command in its comment gives."""
    (command,) = re.findall(r"^# +python train.py.*", path.read_text(), re.MULTILINE)[-1:] or [""]
    given = [f"data.{name}={tmp_path}" for name in re.findall(r"data\.(\w+)=", command)]
    config = load_config(path, given)
    OmegaConf.save(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml", []) == config
