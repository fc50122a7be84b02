"""Loads an experiment's config: its YAML over a typed schema, under the command line.

The options of a section are the constructor arguments of the class that the section is for, with
their types and defaults; nothing is declared twice. Whatever is wrong is a ConfigError of one line
that names the key or the file and what is accepted, before anything is built.

A config is data: it runs no code, reads no environment, and does not grow when it is read.
"""

import difflib
import inspect
import itertools
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import field, fields, make_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from lightning import Trainer
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_modules import CLASSIFIERS
from lightning_modules.callbacks import RelevanceTracker
from lightning_modules.data import DATAMODULES
from lightning_modules.utils.names import one_line
from relprop.errors import UnknownName

# Constructor arguments that train.py fills in, and which a config therefore must not set.
SUPPLIED_BY_TRAIN = (
    "model.class_names",
    "model.input_config",
    "tracker.run_dir",
    "trainer.logger",
    "trainer.callbacks",
    "trainer.default_root_dir",
)
TOP_LEVEL = dict(
    seed=int,
    run_dir=str,
    patience=int | None,  # epochs without a better validation accuracy, then training stops
    on_nonfinite=Literal["stop", "skip"],  # what a step does whose gradient is no number
    imports=list[str],  # modules that the run was started with; for people, nothing imports them
    model=dict,
    data=dict,
    tracker=dict | None,
    trainer=dict,
)
TOP_LEVEL_DEFAULTS = dict(seed=0, run_dir=MISSING, patience=None, on_nonfinite="stop", imports=[])
MAX_LENGTH = 65536  # characters of a file
MAX_DEPTH = 20  # mappings and lists within each other
# Numbers of base 8 and 60: what nobody means who writes 010 or 12:00:00:00.
NOT_DECIMAL = re.compile(r"[-+]?(0[0-7_]+|[1-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
INTERPOLATION = re.compile(r"(?<!\\)\$\{([A-Za-z_]\w*(?:\.\w+)*)\}", re.ASCII)
TYPE_NAMES = {cls: cls.__name__ for cls in (bool, int, float, str, list)}
TYPE_NAMES |= {NoneType: "null", dict: "mapping", Any: "anything"}


class ConfigError(ValueError):
    """What is wrong with a config, in one printable line."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message[:2000]))


def load_config(path: str | Path, overrides: Sequence[str]) -> DictConfig:
    """The complete config of an experiment; `OmegaConf.save` of it is enough to run it again.

    Args:
        path: YAML file, a mapping with the keys of TOP_LEVEL.
        overrides: "key.sub=value" each, the value in YAML. They win over the file, and later ones
            over earlier ones.

    Raises:
        ConfigError: the file, an override or the config that they make is not accepted.
    """
    return make_config(
        read_file(path),
        overrides,
        lambda written: {
            "model": chosen_schema("model", CLASSIFIERS, written),
            "data": chosen_schema("data", DATAMODULES, written),
            "tracker": make_schema("tracker", RelevanceTracker),
            "trainer": make_schema("trainer", Trainer),
        },
    )


def load_data_config(path: str | Path | None, overrides: Sequence[str]) -> dict[str, Any]:
    """The complete ``data`` section of an experiment, or of overrides alone, as plain values.

    Raises:
        ConfigError: as load_config.
    """
    if path is not None:
        return OmegaConf.to_container(load_config(path, overrides).data)
    config = make_config(
        {"run_dir": ""},
        overrides,
        lambda written: {"data": chosen_schema("data", DATAMODULES, written)},
    )
    return OmegaConf.to_container(config.data)


def imports_of(path: str | Path) -> list[str]:
    """The modules that a config says its run was started with; none where it cannot be read."""
    try:
        named = read_file(path).get("imports")
    except ConfigError:
        return []
    return named if accepts(TOP_LEVEL["imports"], named) else []


def make_config(
    written: dict[str, Any],
    overrides: Sequence[str],
    schemas_of: Callable[[dict[str, Any]], dict[str, type]],
) -> DictConfig:
    """What is written, under the overrides, complete; `schemas_of` gives the schemas it needs."""
    for override in overrides:
        written = merge(written, read_override(override))
    check_options("", written, TOP_LEVEL)
    schemas = schemas_of(written)
    check_sections(written, schemas)
    config = complete(written, schemas)
    check_sections(OmegaConf.to_container(config), schemas)  # now interpolations have types, too
    return config


def read_file(path: str | Path) -> dict[str, Any]:
    """The mapping that a YAML file holds."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_LENGTH + 1)
    except FileNotFoundError:
        folders = (Path(path).parent, Path(__file__).parent)
        known = {os.path.relpath(file) for folder in folders for file in folder.glob("*.yaml")}
        accepted = ", ".join(sorted(known)) or "a YAML file"
        raise ConfigError(f"{path}: no such file; accepted: {accepted}") from None
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL in the path
        problem = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: {problem}; accepted: a YAML file in UTF-8") from None
    if len(text) > MAX_LENGTH:
        raise ConfigError(f"{path}: too long; accepted: {MAX_LENGTH} characters")
    written = parse_yaml(text, str(path))
    if not isinstance(written, dict):
        accepted = ", ".join(TOP_LEVEL)
        raise ConfigError(f"{path}: {show(written)} is no mapping; accepted: one with {accepted}")
    return written


def read_override(override: str) -> dict[str, Any]:
    """What "key.sub=value" says, as the mapping {key: {sub: value}}."""
    key, equals, text = override.partition("=")
    names = key.split(".")
    if not equals or not re.fullmatch(r"[\w-]+(\.[\w-]+)*", key) or len(names) > MAX_DEPTH:
        raise ConfigError(f"override {show(override)} is not accepted; accepted: key.sub=value")
    check_written_whole(text, key)
    value = parse_yaml(text, f"override {show(override)}")
    for name in reversed(names):
        value = {name: value}
    return value


def check_written_whole(text: str, key: str) -> None:
    """Refuse a value of which YAML would leave something out: a comment, a line break."""
    try:
        tokens = list(yaml.scan(text, Loader=yaml.SafeLoader))
    except yaml.YAMLError:
        return  # parse_yaml says what is wrong
    for before, after in itertools.pairwise(tokens):
        between = text[before.end_mark.index : after.start_mark.index]
        lines = after.end_mark.line - after.start_mark.line
        if "#" in between:
            left_out = f"{show(between[between.index('#') :].strip())} for a comment"
        elif isinstance(after, yaml.ScalarToken) and lines:
            left_out = "a line break for a space"
        else:
            continue
        quoted = f"the value in quotes of its own, '{key}={json.dumps(text, ensure_ascii=False)}'"
        raise ConfigError(f"{key}: YAML takes {left_out}; accepted: {quoted}")


def parse_yaml(text: str, source: str) -> Any:
    """The value that a YAML text stands for; `source` says in an error where it is from."""
    try:
        check_yaml(text)
        # The public way to OmegaConf's loader: 1e-3 is a float, a date is text, keys are unique.
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]
        json.dumps(value, ensure_ascii=False).encode()  # fails for what could not be saved either
        return value
    except yaml.MarkedYAMLError as error:
        problem = " ".join(filter(None, (error.context, error.problem)))
        raise ConfigError(f"{source}, line {error.problem_mark.line + 1}: {problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{source}: {str(error).splitlines()[0]}") from None


def check_yaml(text: str) -> None:
    """Refuse what would run code, grow or recurse when it is read, or be read as something else."""
    flow: list[bool] = []  # of each collection that is open: if it is written in brackets
    key = ""
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            flow.append(bool(event.flow_style))
        elif isinstance(event, yaml.CollectionEndEvent):
            flow.pop()
        scalar = getattr(event, "value", "")
        plain = isinstance(event, yaml.ScalarEvent) and event.style is None
        if len(flow) > MAX_DEPTH:
            problem = f"nested too deeply; accepted: {MAX_DEPTH} levels"
        elif isinstance(event, yaml.AliasEvent):
            problem = f"the alias *{event.anchor} is not accepted; write the value out"
        elif getattr(event, "tag", None):
            problem = f"the tag {event.tag} is not accepted; leave it out"
        elif "${" in scalar and "$" in INTERPOLATION.sub("", scalar):
            problem = f"{show(scalar)} is not accepted; accepted: plain ${{key}}"
        elif plain and not scalar and flow and flow[-1]:
            problem = f"the key {show(key)} has no value; accepted: {{key: value}}, with the space"
        elif plain and NOT_DECIMAL.fullmatch(scalar):
            number = yaml.safe_load(scalar)
            problem = f"YAML takes {scalar} for the number {number}; accepted: {number}, or quotes"
        else:
            key = scalar
            continue
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


def merge(below: Any, above: Any) -> Any:
    """`above` over `below`: mappings are merged, any other value is replaced."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return below | {name: merge(below.get(name), value) for name, value in above.items()}


def chosen_schema(section: str, registry: Mapping[str, type], written: dict[str, Any]) -> type:
    """The schema of the class that a section's `kind` names."""
    kind = written.get(section, {}).get("kind")
    accepted = f"accepted: {', '.join(registry)}"
    if kind is None:
        raise ConfigError(f"{section}.kind: missing; {accepted}")
    if not isinstance(kind, str) or kind not in registry:
        problem = f"{show(kind)} is unknown{similar(str(kind), registry)}; {accepted}"
        raise ConfigError(f"{section}.kind: {problem}") from UnknownName(problem)
    return make_schema(section, registry[kind], [("kind", str, kind)])


def make_schema(section: str, cls: type, options: Sequence[tuple] = ()) -> type:
    """A dataclass: `options`, and the arguments of a class's constructor that a config may set."""
    options = list(options)
    for name, argument in inspect.signature(cls.__init__, eval_str=True).parameters.items():
        variadic = argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD)
        if name == "self" or variadic or f"{section}.{name}" in SUPPLIED_BY_TRAIN:
            continue
        type_ = Any if argument.annotation is argument.empty else argument.annotation
        default = MISSING if argument.default is argument.empty else argument.default
        default = "${seed}" if name == "seed" else default
        options.append((name, type_, field(default_factory=lambda default=default: default)))
    return make_dataclass(section, options)


def complete(written: dict[str, Any], schemas: dict[str, type]) -> DictConfig:
    """What is written over all defaults, with every interpolation replaced by its value."""
    defaults = TOP_LEVEL_DEFAULTS | schemas | {"trainer": {}}
    try:
        config = OmegaConf.merge(OmegaConf.create(defaults), written)
        check_interpolations(dict(flatten(OmegaConf.to_container(config))))
        OmegaConf.resolve(config)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}") from None
    # Merging would drop a written ??? for a default, which then is not what the file asks for.
    values = (*flatten(written), *flatten(OmegaConf.to_container(config)))
    missing = ", ".join(sorted({key for key, value in values if value == MISSING}))
    if missing:
        raise ConfigError(f"{missing}: missing; give a value in the file or key=value")
    return config


def check_interpolations(values: dict[str, Any]) -> None:
    """Every interpolation must name a value that is written out: no cycle, no explosion."""
    for key, value in values.items():
        for target in INTERPOLATION.findall(value) if isinstance(value, str) else ():
            if target not in values:
                raise ConfigError(f"{key}: ${{{target}}}: no such key{similar(target, values)}")
            if isinstance(values[target], dict | list) or "$" in str(values[target]):
                problem = f"${{{target}}} is {show(values[target])}"
                raise ConfigError(f"{key}: {problem}; accepted: a key with one, written-out value")


def check_sections(values: dict[str, Any], schemas: dict[str, type]) -> None:
    """Every option of the config must be known, and of its type."""
    check_options("", values, TOP_LEVEL)
    for section, schema in schemas.items():
        types = {option.name: option.type for option in fields(schema)}
        check_options(section, values.get(section) or {}, types)


def check_options(section: str, values: dict[str, Any], types: Mapping[str, Any]) -> None:
    """The options of one section must be known, and of their types."""
    for name, value in values.items():
        key = f"{section}.{name}" if section else str(name)
        if key in SUPPLIED_BY_TRAIN:
            raise ConfigError(f"{key}: train.py sets it itself; leave it out")
        if name not in types:
            accepted, hint = ", ".join(types) or "none", similar(str(name), types)
            raise ConfigError(f"{key}: unknown key{hint}; accepted: {accepted}")
        if not accepts(types[name], value):
            accepted = describe(types[name])
            raise ConfigError(f"{key}: {show(value)} is not accepted; accepted: {accepted}")


def accepts(type_: Any, value: Any) -> bool:
    """Whether a value from YAML has the type of an annotation.

    OmegaConf would let pass: `no` as the name "False", 2 as true, [[1]] as a list of float.
    """
    origin, args = get_origin(type_) or type_, get_args(type_)
    if origin in (Union, UnionType):
        return any(accepts(arg, value) for arg in args)
    if isinstance(value, str) and (value == MISSING or "${" in value):
        return origin not in (NoneType, list, dict)  # its value is not known yet
    if origin is Literal:
        return any(type(value) is type(arg) and value == arg for arg in args)
    if origin is float:
        return type(value) in (int, float)
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    fits = origin is Any or type(value) is origin
    return fits and (not args or all(accepts(args[-1], item) for item in items))


def describe(type_: Any) -> str:
    """A type in the words of someone who writes YAML; "" if YAML cannot express it."""
    origin, args = get_origin(type_) or type_, get_args(type_)
    if origin in (Union, UnionType):
        return " or ".join(filter(None, map(describe, args)))
    if origin is Literal:
        return " or ".join(map(show, args))
    items = describe(args[-1]) if args else ""
    return TYPE_NAMES.get(origin, "") + (f" of {items}" if items else "")


def show(value: Any) -> str:
    """A value as YAML would have it, shortened."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def similar(name: str, accepted: Collection[str]) -> str:
    """A hint at the accepted names that look like this one, if any."""
    names = difflib.get_close_matches(name, accepted)
    return f", did you mean {' or '.join(names)}?" if names else ""


def flatten(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value within a value, itself included, with its dotted key."""
    yield key, value
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for name, item in items:
        yield from flatten(item, f"{key}.{name}" if key else str(name))
