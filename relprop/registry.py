"""Registries: things of one kind by name, looked up when they are used."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from relprop.errors import UnknownName

T = TypeVar("T")


class Registry(dict[str, T]):
    """A dict that functions and classes are registered in by a decorator.

    >>> SHAPES = Registry("shape")
    >>> @SHAPES.register("square")
    ... def square(side):
    ...     return side**2
    >>> SHAPES["square"](3)
    9

    Args:
        called: what an error calls one of the things.
    """

    def __init__(self, called: str) -> None:
        super().__init__()
        self.called = called
        self._places: dict[str, tuple[str, str]] = {}  # of their definitions

    def register(self, name: str) -> Callable[[T], T]:
        """Decorate a function or class to register it under ``name``.

        Raises:
            ValueError: the name is another one's. The same definition may be made again, as by a
                cell of a notebook.
        """

        def add(thing: T) -> T:
            self.add(name, thing, thing)  # type: ignore[arg-type]
            return thing

        return add

    def add(self, name: str, thing: T, source: Callable) -> None:
        """Register ``thing``, which the function or class ``source`` defines; errors as above."""
        place = (source.__module__, source.__qualname__)
        if name in self and self._places.get(name) != place:
            by = ".".join(self._places.get(name, ("an assignment",)))
            raise ValueError(
                f"the {self.called} {name!r} is registered already, by {by}; accepted: another name"
            )
        self[name], self._places[name] = thing, place

    def find(self, name: str, given: str | None = None) -> T:
        """The thing of that name.

        Raises:
            UnknownName: there is none; says what was ``given`` and the names there are.
        """
        if not isinstance(name, str) or name not in self:
            given = f"{self.called} is {name!r}" if given is None else given
            raise UnknownName(f"{given}; accepted: {', '.join(self)}")
        return self[name]
