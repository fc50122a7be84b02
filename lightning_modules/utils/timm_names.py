"""Names of timm's models, read from its sources as long as timm has not been imported."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import re
import sys
from functools import cache
from pathlib import Path
from typing import Annotated

from lightning_modules.utils.errors import InputError

REGISTERED = re.compile(r"^@register_model\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)
DEPRECATED = re.compile(
    r"^register_model_deprecations\(__name__, (\{.*?^\})\)", re.MULTILINE | re.DOTALL
)


TimmName = Annotated[str, "the name of a model of timm's"]


def timm_names() -> list[str]:
    """Names of timm's models, without those that are deprecated."""
    if "timm" in sys.modules or not read_names()[0]:
        import timm

        return timm.list_models()
    return read_names()[0]


def is_timm_name(name: str) -> bool:
    """Whether timm makes a model of a name, which may have a tag and may be deprecated."""
    if "timm" in sys.modules or not read_names()[0]:
        import timm

        return timm.is_model(name)
    return name.partition(".")[0] in {*read_names()[0], *read_names()[1]}


@cache
def read_names() -> tuple[list[str], list[str]]:
    """Names of the models and names that are deprecated, in timm's sources."""
    spec = importlib.util.find_spec("timm")
    names: list[str] = []
    deprecated: list[str] = []
    for path in Path(spec.origin).with_name("models").glob("*.py") if spec else ():
        text = path.read_text(encoding="utf-8")
        names += REGISTERED.findall(text)
        for mapping in DEPRECATED.findall(text):
            keys = ast.parse(mapping, mode="eval").body.keys
            deprecated += [ast.literal_eval(key) for key in keys]
    return sorted(names), deprecated


def check_backbone_name(key: str, name: str) -> None:
    """Raise an InputError unless the option ``key`` names a model of timm's."""
    if not is_timm_name(name):
        similar = nearest(name, [x for x in timm_names() if x.startswith(("vit_", "deit"))])
        given = similar or "deit_small_patch16_224"
        raise InputError(f"{key} is {name!r}; accepted: a timm model, e.g. {given}")


def check_published_name(name: str) -> None:
    """Raise an InputError unless ``--timm`` names a model of timm's."""
    if not is_timm_name(name):
        raise InputError(
            f"--timm {name}: timm has no such model; accepted: any of timm's that classifies "
            f"pictures, e.g. {nearest(name, timm_names()) or 'resnet50'}"
        )


def nearest(name: str, names: list[str]) -> str:
    """The names that look like one."""
    return ", ".join(difflib.get_close_matches(name, names, n=4))
