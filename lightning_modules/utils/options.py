"""Options: what the arguments of a class's constructor are, and which values they accept.

An option is declared once, in the constructor that uses it. A constructor that takes ``**options``
and hands them to its base has the options of its base, too.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

TYPE_NAMES = {cls: cls.__name__ for cls in (bool, int, float, str, list)}
TYPE_NAMES |= {dict: "mapping", Any: "anything", NoneType: "null"}  # in the order of messages
NUMBERS = {int: Integral, float: Real}
TAKEN_FOR = NUMBERS | {list: (list, tuple)}  # what Python's callers may give


@dataclass(frozen=True)
class Range:
    """The numbers that an option accepts, as ``Annotated[float, Range(0, 1)]`` in a signature.

    It is about numbers alone: of ``Annotated[int | None, Range(1)]`` null is accepted, too. NaN is
    in no range.

    >>> str(Range(0, 1)), str(Range(1)), str(Range(above=0, most=1))
    ('from 0 to 1', 'of at least 1', 'above 0 and at most 1')
    >>> 0 in Range(0, 1), 0 in Range(above=0, most=1)
    (True, False)

    Args:
        least: the least of them.
        most: the greatest of them.
        above: they are greater than this.
        below: they are less than this; ``math.inf``: they are finite.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            value == value
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        if None not in (self.least, self.most) and self.above is self.below is None:
            return f"from {self.least} to {self.most}"
        ends = {"of at least": self.least, "above": self.above, "at most": self.most}
        words = [f"{end} {value}" for end, value in ends.items() if value is not None]
        if self.below is not None:
            words.append("finite" if self.below == math.inf else f"below {self.below}")
        return " and ".join(words)


@dataclass(frozen=True)
class Words:
    """The words that an option accepts, in small letters or in capitals.

    >>> note = Words("norm", "value")
    >>> "NORM" in note, str(note)
    (True, '"norm" or "value"')
    """

    words: tuple[str, ...]

    def __init__(self, *words: str) -> None:
        object.__setattr__(self, "words", words)

    def __contains__(self, value: str) -> bool:
        return value.lower() in self.words

    def __str__(self) -> str:
        return " or ".join(map(show, self.words))


@dataclass(frozen=True)
class Matching:
    """The texts that an option accepts: those that a regular expression matches.

    >>> note = Matching("[ab]+", "letters, a or b")
    >>> "abba" in note, "abc" in note, str(note)
    (True, False, 'letters, a or b')
    """

    pattern: str
    called: str

    def __contains__(self, value: str) -> bool:
        return re.fullmatch(self.pattern, value) is not None

    def __str__(self) -> str:
        return self.called


OF_TEXTS = (Words, Matching)
Made = TypeVar("Made")
Seed = Annotated[int, Range(0, 2**32 - 1)]
Count = Annotated[int, Range(1)]
PathThere = Annotated[str, "the path of a file or folder that must be there"]
NotNegative = Annotated[float, Range(0, below=math.inf)]


def arguments(cls: type) -> dict[str, inspect.Parameter]:
    """The arguments of a class's constructor by name, with those that ``**options`` hands on.

    ``**options`` is followed up the method resolution order. Where several constructors name an
    argument, annotation and default are those of the most derived class that does.
    """
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        _, *parameters = inspect.signature(base.__init__, eval_str=True).parameters.values()
        kinds = [parameter.kind for parameter in parameters]
        for parameter in parameters:
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                found.setdefault(parameter.name, parameter)
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    return found


class Checked:
    """Base of classes whose constructors refuse an argument that is out of its range."""

    def __new__(cls, *args: Any, **options: Any):
        own = list(inspect.signature(cls.__init__).parameters)[1:]
        check_ranges(arguments(cls), dict(zip(own, args, strict=False)) | options)
        return super().__new__(cls)


def check_ranges(accepted: Mapping[str, inspect.Parameter], options: Mapping[str, Any]) -> None:
    """Raises a ValueError that names the first option that is out of its range.

    Options whose annotations have no range are not looked at.
    """
    for name, value in options.items():
        type_ = accepted[name].annotation if name in accepted else Any
        if has_range(type_):
            check_option(name, value, accepts(type_, value, is_one=_is_one), describe(type_))


def check_option(name: str, value: object, valid: bool, accepted: str) -> None:
    """Raises a ValueError that names the option, its value and what is accepted, unless valid."""
    if not valid:
        raise ValueError(refusal(name, show(value, most=4096), accepted))


def from_mapping(cls: type[Made], option: str, given: Mapping[str, Any]) -> Made:
    """An object of a class, of an option that is a mapping of the constructor's arguments.

    Raises:
        ValueError: it names none of them, or a value is not accepted.
    """
    known = arguments(cls)
    for name, value in given.items():
        if name not in known:
            raise ValueError(f"{option}.{name}: no such option; accepted: {', '.join(known)}")
        type_ = known[name].annotation
        check_option(f"{option}.{name}", value, accepts(type_, value), describe(type_))
    return cls(**given)


def refusal(name: str, shown: str, accepted: str) -> str:
    """The message about an option with a value that it does not accept."""
    return f"{name}: {shown} is not accepted; accepted: {accepted}"


# ------------------------------------------------------------------------- types of arguments


def accepts(
    type_: Any, value: Any, is_one: Callable[[Any, Any], bool] = lambda x, cls: type(x) is cls
) -> bool:
    """Whether a value has the type of an annotation, and lies in its ranges.

    Args:
        type_: the annotation.
        value: as YAML gives it, so that by default a value has exactly its type: OmegaConf would
            let pass `no` as the name "False", 2 as true, [[1]] as a list of float.
        is_one: whether a value is one of a class.
    """
    origin, args = get_origin(type_) or type_, get_args(type_)
    if origin is Annotated:
        about = OF_TEXTS if isinstance(value, str) else Range if isinstance(value, Real) else ()
        notes = [note for note in args[1:] if isinstance(note, about)]
        inside = is_open(value) or all(value in note for note in notes)
        return inside and accepts(args[0], value, is_one)
    if origin in (Union, UnionType):
        return any(accepts(arg, value, is_one) for arg in args)
    if is_open(value):
        return origin not in (NoneType, list, dict)
    if origin is Literal:
        return any(type(value) is type(arg) and value == arg for arg in args)
    if origin is float:
        return is_one(value, float) or is_one(value, int)
    items = value.values() if isinstance(value, dict) else value
    items = items if isinstance(value, (dict, list, tuple)) else ()
    fits = origin is Any or is_one(value, origin)
    if get_origin(key_of(type_)) is Literal:
        fits = fits and all(accepts(args[0], key, is_one) for key in value)
    return fits and (not args or all(accepts(args[-1], item, is_one) for item in items))


def is_open(value: Any) -> bool:
    """True for a value of a config that is not known yet: missing, or an interpolation."""
    return isinstance(value, str) and (value == "???" or "${" in value)


def _is_one(value: Any, cls: Any) -> bool:
    """Whether a value can stand for one of a class, as NumPy's numbers for numbers."""
    return isinstance(value, TAKEN_FOR.get(cls, cls))


def has_range(type_: Any) -> bool:
    """Whether a range stands anywhere in an annotation."""
    return isinstance(type_, Range) or any(map(has_range, get_args(type_)))


def describe(type_: Any, range_: str = "") -> str:
    """A type and its range in the words of who writes YAML; "" if YAML cannot express it."""
    origin, args = get_origin(type_) or type_, get_args(type_)
    if origin is Annotated:
        for words in (note for note in args[1:] if isinstance(note, OF_TEXTS)):
            return str(words)
        notes = [str(note) for note in args[1:] if isinstance(note, Range)]
        return describe(args[0], " and ".join(filter(None, [range_, *notes])))
    if origin in (Union, UnionType):
        # typing gives the members of equal unions in the order that a process has met first.
        known = [cls for cls in TYPE_NAMES if cls is not NoneType]
        order = dict(zip([*known, Literal, NoneType], range(len(known) + 2), strict=True))
        args = sorted(args, key=lambda arg: order.get(bare(arg), len(known)))
        return " or ".join(filter(None, (describe(arg, range_) for arg in args)))
    if origin is Literal:
        return " or ".join(map(show, args))
    items = describe(args[-1]) if args else ""
    if get_origin(key_of(type_)) is Literal:
        items = f"{items} by {', '.join(get_args(args[0]))}"
    words = TYPE_NAMES.get(origin, "") + (f" of {items}" if items else "")
    return f"{words} {range_}" if range_ and origin in NUMBERS else words


def key_of(type_: Any) -> Any:
    """The type of a mapping's keys; None of anything else."""
    args = get_args(type_)
    return args[0] if get_origin(type_) is dict and args else None


def bare(type_: Any) -> Any:
    """A type without its arguments and notes."""
    while get_origin(type_) is Annotated:
        type_ = get_args(type_)[0]
    return get_origin(type_) or type_


def show(value: Any, most: int = 80) -> str:
    """A value as YAML would have it, shortened to ``most`` characters."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= most else f"{text[: most - 3]}..."
