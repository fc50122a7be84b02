"""What the sections of a config accept: the schemas of the classes that they are for.

A class is named by a section's ``kind``, or, where a section is of several things, by their names.
"""

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import field, fields, make_dataclass
from typing import Annotated, Any

from omegaconf import MISSING

from configs.libraries import values_of_lightning
from configs.signatures import named, registered
from configs.yaml_text import ConfigError
from lightning_modules.utils.options import Range, arguments, show
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
OF_PYTHON = (  # what only a caller from Python can give
    "tracker.source",
    "tracker.model",
    "tracker.inputs",
    "tracker.labels",
    "tracker.class_names",
    "tracker.normalisation",
    "tracker.tokenizer",
)
NAMED = ("loggers", "callbacks")  # sections of several things, by their names
OF_NAMED = (
    "options by name, such as {tensorboard: {}, csv: {}} or {EarlyStopping: {monitor: val/loss}}"
)
NAMES = {  # options that name what is registered: the registry
    "tracker.method": ("relprop.methods", "METHODS", "method"),
    "tracker.protocols": ("lightning_modules.protocols", "PROTOCOLS"),
}


class UnknownKind(ConfigError, UnknownName):
    """A section's `kind` is not registered."""


def experiment_schemas(written: dict[str, Any]) -> dict[str, Any]:
    """The schemas of all sections; of those of several things by their names."""
    return {
        "model": chosen_schema(
            "model", registered("lightning_modules.models", "CLASSIFIERS"), written
        ),
        **data_schema(written),
        "tracker": make_schema("tracker", named("lightning_modules.callbacks", "RelevanceTracker")),
        "trainer": make_schema("trainer", named("lightning", "Trainer")),
        **{section: named_schemas(section, written.get(section, {})) for section in NAMED},
    }


def named_schemas(section: str, written: Mapping[str, Any]) -> dict[str, type]:
    """The schemas of the things that a section names."""
    if not written:
        return {}
    registry = registered(f"lightning_modules.{section}", section.upper())
    for name in written:
        if name not in registry:
            hint = similar(str(name), registry)
            accepted = ", ".join(registry)
            raise UnknownKind(f"{section}: {show(name)} is unknown{hint}; accepted: {accepted}")
    return {name: make_schema(f"{section}.{name}", registry[name]) for name in written}


def data_schema(written: dict[str, Any]) -> dict[str, type]:
    """The schema of the data set that is asked for."""
    kinds = registered("lightning_modules.data", "DATAMODULES")
    return {"data": chosen_schema("data", kinds, written)}


def chosen_schema(section: str, registry: Mapping[str, type], written: dict[str, Any]) -> type:
    """The schema of the class that a section's `kind` names."""
    kind = written.get(section, {}).get("kind")
    accepted = f"accepted: {', '.join(registry)}"
    if kind is None:
        raise ConfigError(f"{section}.kind: missing; {accepted}")
    if not isinstance(kind, str) or kind not in registry:
        hint = similar(str(kind), registry)
        raise UnknownKind(f"{section}.kind: {show(kind)} is unknown{hint}; {accepted}")
    return make_schema(section, registry[kind], [("kind", str, kind)])


def make_schema(
    section: str,
    cls: type,
    options: Sequence[tuple] = (),
) -> type:
    """A dataclass: `options`, and the arguments of a class's constructor that a config may set."""
    options, of_lightning = list(options), values_of_lightning()
    for name, argument in arguments(cls).items():
        if f"{section}.{name}" in (*SUPPLIED_BY_TRAIN, *OF_PYTHON):
            continue
        type_ = Any if argument.annotation is argument.empty else argument.annotation
        known = of_lightning.get(f"{section}.{name}", type_)
        type_ = Annotated[type_, known] if isinstance(known, Range) else known
        default = MISSING if argument.default is argument.empty else argument.default
        default = "${seed}" if name == "seed" else default
        options.append((name, type_, field(default_factory=lambda default=default: default)))
    return make_dataclass(section, options)


def check_required(section: str, written: Mapping[str, Any], schemas: Mapping[str, type]) -> None:
    """The options of a section of several things that have no default must be given."""
    for name, schema in schemas.items():
        for option in fields(schema):
            given = (written.get(name) or {}).get(option.name, option.default_factory())
            if isinstance(given, str) and given == MISSING:
                key = f"{section}.{name}.{option.name}"
                raise ConfigError(f"{key}: missing; give a value in the file or key=value")


def check_names(config: Mapping[str, Any]) -> None:
    """What the options in ``NAMES`` name must be registered."""
    for key, registry in NAMES.items():
        section, option = key.split(".")
        given = (config.get(section) or {}).get(option)
        accepted = registered(*registry) if given else ()
        for name in [given] if isinstance(given, str) else given or ():
            if name not in accepted:
                verb = "is" if isinstance(given, str) else "has"
                hint = similar(name, accepted)
                raise UnknownKind(f"{key} {verb} {name!r}{hint}; accepted: {', '.join(accepted)}")


def similar(name: str, accepted: Collection[str]) -> str:
    """A hint at the accepted names that look like this one, if any."""
    names = difflib.get_close_matches(name, accepted)
    return f", did you mean {' or '.join(names)}?" if names else ""
