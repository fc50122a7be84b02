"""Loads an experiment's config: its YAML over a typed schema, under the command line.

The options of a section are the constructor arguments of the class that the section is for, with
their types and defaults; nothing is declared twice. Whatever is wrong is a ConfigError of one line
that names the key or the file and what is accepted, before anything is built.

A config is data: it runs no code, reads no environment, and does not grow when it is read.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from configs.sections import (
    NAMED,
    OF_NAMED,
    SUPPLIED_BY_TRAIN,
    check_names,
    check_once,
    check_required,
    data_schema,
    experiment_schemas,
    mappings_of_classes,
    similar,
)
from configs.yaml_text import INTERPOLATION, ConfigError, read_file, read_override
from lightning_modules.utils.options import Count, Seed, accepts, describe, is_open, refusal, show
from lightning_modules.utils.timm_names import TimmName, check_backbone_name

TOP_LEVEL = dict(
    seed=Seed,
    task=str,  # what the labels mean
    run_dir=str,
    patience=Count | None,  # epochs without a better validation, then training stops
    on_nonfinite=Literal["stop", "skip"],  # what a step does whose gradient is no number
    imports=list[str],  # modules that the run was started with; for people, nothing imports them
    model=dict,
    data=dict,
    tracker=dict | None,
    guidance=dict | None,  # null: none
    distill=dict | None,  # null: none
    trainer=dict,
    loggers=dict[str, dict | None],  # options by name
    callbacks=dict[str, dict | None],
)
OF_PYTHON_ALONE = "its default; a config cannot express another"
OWN_SECTION = {"trainer.logger": "loggers", "trainer.callbacks": "callbacks"}
SECTIONS = ("model", "data", "tracker", "guidance", "distill", "trainer", "loggers", "callbacks")
NAMED_DEFAULTS = {"loggers": {"tensorboard": {}}, "callbacks": {}}
TOP_LEVEL_DEFAULTS = dict(
    seed=0,
    task="multiclass",
    run_dir=MISSING,
    patience=None,
    guidance=None,
    distill=None,
    on_nonfinite="stop",
    imports=[],
)


def load_config(path: str | Path, overrides: Sequence[str]) -> DictConfig:
    """The complete config of an experiment; `OmegaConf.save` of it is enough to run it again.

    Args:
        path: YAML file, a mapping with the keys of TOP_LEVEL.
        overrides: "key.sub=value" each, the value in YAML. They win over the file, and later ones
            over earlier ones.

    Raises:
        ConfigError: the file, an override or the config that they make is not accepted.
    """
    return make_config(read_file(path, TOP_LEVEL), overrides, experiment_schemas)


def complete_config(config: Mapping[str, Any]) -> DictConfig:
    """The complete config of what a file would hold; of a complete one, itself.

    Raises:
        ConfigError: it is not accepted.
    """
    if isinstance(config, DictConfig):
        config = OmegaConf.to_container(config)
    if not isinstance(config, Mapping):
        raise ConfigError(
            f"the config is {show(config)}; accepted: a mapping, as of load_config(FILE, [])"
        )
    return make_config(dict(config), [], experiment_schemas)


def load_data_config(path: str | Path | None, overrides: Sequence[str]) -> dict[str, Any]:
    """The complete ``data`` section of an experiment, or of overrides alone, as plain values.

    In the other sections values may be out of their ranges: a run that is scored may have been
    trained by a version that accepted them.

    Raises:
        ConfigError: as load_config.
    """
    written = {"run_dir": ""} if path is None else read_file(path, TOP_LEVEL)
    written = {name: value for name, value in written.items() if name not in NAMED}
    schemas_of = data_schema if path is None else experiment_schemas
    config = make_config(written, overrides, schemas_of, ranged=("data",))
    return OmegaConf.to_container(config.data)


def imports_of(path: str | Path) -> list[str]:
    """The modules that a config says its run was started with; none where it cannot be read."""
    try:
        named = read_file(path, TOP_LEVEL).get("imports")
    except ConfigError:
        return []
    return named if accepts(TOP_LEVEL["imports"], named) else []


def make_config(
    written: dict[str, Any],
    overrides: Sequence[str],
    schemas_of: Callable[[dict[str, Any]], dict[str, Any]],
    ranged: Collection[str] = SECTIONS,
) -> DictConfig:
    """What is written, under the overrides, complete.

    Args:
        written: what a file holds.
        overrides: as of load_config.
        schemas_of: gives the schemas that a config needs.
        ranged: the sections whose values must be in their ranges.
    """
    for override in overrides:
        written = merge(written, read_override(override))
    check_options("", written, TOP_LEVEL)
    named = {section: written.get(section, given) for section, given in NAMED_DEFAULTS.items()}
    written = written | {
        section: {name: options or {} for name, options in of_section.items()}
        for section, of_section in named.items()
    }
    schemas = schemas_of(written)
    check_sections(written, schemas, ranged)
    config = complete(written, schemas)
    values = OmegaConf.to_container(config)
    check_sections(values, schemas, ranged)  # now interpolations have types, too
    if "tracker" in ranged:
        for key, given, type_ in mappings_of_classes(values):
            check_options(key, given, get_type_hints(type_, include_extras=True))
        check_names(values)
        check_once(values)
    values["run_dir"] = os.path.expanduser(values["run_dir"])
    return OmegaConf.create(values)  # without the schemas, which other processes cannot be sent


def merge(below: Any, above: Any) -> Any:
    """`above` over `below`: mappings are merged, any other value is replaced."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return below | {name: merge(below.get(name), value) for name, value in above.items()}


def complete(written: dict[str, Any], schemas: dict[str, Any]) -> DictConfig:
    """What is written over all defaults, with every interpolation replaced by its value."""
    # Libraries have types that a structured config does not take.
    defaults = TOP_LEVEL_DEFAULTS | schemas | {name: {} for name in ("trainer", *NAMED)}
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


def check_sections(
    values: dict[str, Any], schemas: dict[str, Any], ranged: Collection[str]
) -> None:
    """Every option of the config must be known, of its type, and in the `ranged` in its range."""
    check_options("", values, TOP_LEVEL)
    for section, schema in schemas.items():
        of_section = values.get(section) or {}
        parts = {section: (schema, of_section)}
        if isinstance(schema, dict):
            parts = {f"{section}.{n}": (x, of_section.get(n) or {}) for n, x in schema.items()}
        for part, (of_part, options) in parts.items():
            check_options(part, options, get_type_hints(of_part, include_extras=section in ranged))
        if isinstance(schema, dict):
            check_required(section, of_section, schema)


def check_options(section: str, values: dict[str, Any], types: Mapping[str, Any]) -> None:
    """The options of one section must be known, of their types, and in their ranges."""
    for name, value in values.items():
        key = f"{section}.{name}" if section else str(name)
        if key in SUPPLIED_BY_TRAIN:
            hint = f"; accepted: a section {named}" if (named := OWN_SECTION.get(key)) else ""
            raise ConfigError(f"{key}: train.py sets it itself; leave it out{hint}")
        if name not in types:
            accepted, hint = ", ".join(types) or "none", similar(str(name), types)
            raise ConfigError(f"{key}: unknown key{hint}; accepted: {accepted}")
        if not accepts(types[name], value):
            accepted = OF_NAMED if key in NAMED else describe(types[name]) or OF_PYTHON_ALONE
            raise ConfigError(refusal(key, show(value), accepted))
        if types[name] == TimmName and not is_open(value):
            check_backbone_name(key, value)


def flatten(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value within a value, itself included, with its dotted key."""
    yield key, value
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for name, item in items:
        yield from flatten(item, f"{key}.{name}" if key else str(name))
