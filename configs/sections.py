"""What the sections of a config accept: the schemas of the classes that they are for.

A class is named by a section's ``kind``, or, where a section is of several things, by their names.
"""

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

from omegaconf import MISSING

from configs.libraries import values_of_lightning
from configs.signatures import named, registered
from configs.yaml_text import ConfigError
from lightning_modules.utils.options import PathThere, Range, arguments, show
from relprop.errors import UnknownName

TRACKERS = ("tracker", "callbacks.RelevanceTracker")
# Constructor arguments that train.py fills in, and which a config therefore must not set.
SUPPLIED_BY_TRAIN = (
    "model.class_names",
    "model.input_config",
    *(f"{tracker}.run_dir" for tracker in TRACKERS),
    "trainer.logger",
    "trainer.callbacks",
    "trainer.default_root_dir",
)
OF_PYTHON = tuple(  # what only a caller from Python can give
    f"{tracker}.{name}"
    for tracker in TRACKERS
    for name in "source model inputs labels class_names normalisation tokenizer".split()
)
OF_ALL = ("seed", "task")  # options that a section has from the top level unless it says otherwise
NAMED = ("loggers", "callbacks")  # sections of several things, by their names
OF_NAMED = (
    "options by name, such as {tensorboard: {}, csv: {}} or {EarlyStopping: {monitor: val/loss}}"
)
NAMES = {  # options that name what is registered: the registry
    "task": ("lightning_modules.tasks", "TASKS"),
    **{f"{x}.method": ("relprop.methods", "METHODS", "method") for x in TRACKERS},
    **{f"{x}.protocols": ("lightning_modules.protocols", "PROTOCOLS") for x in TRACKERS},
    "guidance.method": ("relprop.methods", "METHODS", "method"),
    "guidance.loss": ("relprop.guidance", "GUIDANCE_LOSSES"),
}
ALSO_NAMED = {"guidance.method": ("lightning_modules.guidance", "INPUT_GRADIENT")}
NOT_NAMED = {"guidance.loss": ("lightning_modules.guidance", "RIGHT_REASONS")}
OF_CLASSES = {  # options that are mappings of a class's arguments: the class
    "model.lora": ("lightning_modules.models.adapters", "Lora"),
    "model.dape": ("lightning_modules.models.dape", "Dape"),
    "data.marker": ("lightning_modules.data.marker", "Marker"),
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
        **optional_schema("guidance", "lightning_modules.guidance", "Guidance", written),
        **optional_schema("distill", "lightning_modules.distillation", "Distillation", written),
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


def optional_schema(
    section: str, module: str, name: str, written: Mapping[str, Any]
) -> dict[str, type]:
    """The schema of a section that is a class's; none where it is not asked for."""
    if written.get(section) is None:
        return {}
    return {section: make_schema(section, named(module, name))}


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
        default = f"${{{name}}}" if name in OF_ALL else default
        if name == "run_dir" and section.startswith("callbacks."):
            default = "${run_dir}"
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


def mappings_of_classes(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping, type]]:
    """The options in ``OF_CLASSES`` that a config has: key, value, class."""
    for key, of_class in OF_CLASSES.items():
        if given := section_of(config, key):
            yield key, given, named(*of_class)


def check_paths(config: Mapping[str, Any], resumed: bool) -> None:
    """The files and folders that a run begins with must be there.

    Of a run that is ``resumed`` these are its data: it has its weights.

    Raises:
        ConfigError: one is not.
    """
    registries = {"data": ("lightning_modules.data", "DATAMODULES")}
    if not resumed:
        registries["model"] = ("lightning_modules.models", "CLASSIFIERS")
    for section, registry in registries.items():
        options = config[section]
        for name, argument in arguments(registered(*registry)[options["kind"]]).items():
            is_path = PathThere in (argument.annotation, *get_args(argument.annotation))
            path = options.get(name) if is_path else None
            if path is not None and not Path(path).expanduser().exists():
                raise ConfigError(
                    f"{section}.{name}: {path}: no such file or folder; accepted: one that is there"
                )


def check_names(config: Mapping[str, Any]) -> None:
    """What the options in ``NAMES`` name must be registered."""
    for key in NAMES:
        *section, option = key.rsplit(".", 1)
        of_section = section_of(config, section[0]) if section else config
        given = (of_section or {}).get(option)
        accepted = accepted_names(key) if given else []
        for name in [given] if isinstance(given, str) else given or ():
            if name not in accepted:
                verb = "is" if isinstance(given, str) else "has"
                hint = similar(name, accepted)
                raise UnknownKind(f"{key} {verb} {name!r}{hint}; accepted: {', '.join(accepted)}")


def accepted_names(key: str) -> list[str]:
    """What an option in ``NAMES`` may name."""
    added, left_out = ([named(*x[key])] if key in x else [] for x in (ALSO_NAMED, NOT_NAMED))
    return [x for x in (*registered(*NAMES[key]), *added) if x not in left_out]


def check_once(config: Mapping[str, Any]) -> None:
    """What a key of its own asks for must not be asked for among the callbacks, too."""
    callbacks = config["callbacks"]
    if config["patience"] is not None and "Patience" in callbacks:
        raise ConfigError("patience and callbacks.Patience are the same; accepted: one of them")
    if config["tracker"] is None or "RelevanceTracker" not in callbacks:
        return
    tracker = named("lightning_modules.callbacks", "RelevanceTracker")
    default = arguments(tracker)["method"].default
    methods = [(section_of(config, x) or {}).get("method", default) for x in TRACKERS]
    if methods[0] == methods[1]:
        raise ConfigError(
            f"callbacks.RelevanceTracker.method is {methods[1]!r}, which the tracker explains by "
            "already; accepted: another method, to watch both; or tracker=null"
        )


def section_of(config: Mapping[str, Any], dotted: str) -> Mapping[str, Any] | None:
    """A section, or a part of one, of a config; None where it is not there."""
    found: Any = config
    for name in dotted.split("."):
        found = (found or {}).get(name)
    return found


def similar(name: str, accepted: Collection[str]) -> str:
    """A hint at the accepted names that look like this one, if any."""
    names = difflib.get_close_matches(name, accepted)
    return f", did you mean {' or '.join(names)}?" if names else ""
