"""Options of explain.py for what a model takes beside its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from relprop.registry import Registry

if TYPE_CHECKING:
    from lightning_modules.models.classifier import Classifier

# By the name of the option a function that gives its value to a model. It returns what must be the
# same where a call is resumed, and raises an InputError where the model takes no such thing. The
# first line of its docstring is the help. In a module of a user's own, --import makes it known.
BESIDE: Registry[Callable[[Classifier, str], str]] = Registry("option")


def take_beside(module: Classifier, given: Mapping[str, str]) -> dict[str, str]:
    """Give a model what the options say, by their names; what must be the same of each.

    Raises:
        InputError: the model takes no such thing, or needs another one.
    """
    taken = {name: BESIDE[name](module, value) for name, value in given.items()}
    module.check_complete()
    return taken
