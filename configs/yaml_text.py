"""Reads what users write, files and overrides, as plain YAML: it runs no code and does not grow."""

import itertools
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from lightning_modules.utils.names import one_line
from lightning_modules.utils.options import show

MAX_LENGTH = 65536  # characters of a file
MAX_DEPTH = 20  # mappings and lists within each other
# Numbers of base 8 and 60: what nobody means who writes 010 or 12:00:00:00.
NOT_DECIMAL = re.compile(r"[-+]?(0[0-7_]+|[1-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
INTERPOLATION = re.compile(r"(?<!\\)\$\{([A-Za-z_]\w*(?:\.\w+)*)\}", re.ASCII)


class ConfigError(ValueError):
    """What is wrong with a config, in one printable line."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message[:2000]))


def read_file(path: str | Path, keys: Iterable[str]) -> dict[str, Any]:
    """The mapping that a YAML file holds; `keys` are told to who has none."""
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
        accepted = f"one with {', '.join(keys)}"
        raise ConfigError(f"{path}: {show(written)} is no mapping; accepted: {accepted}")
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
