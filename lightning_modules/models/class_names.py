"""Classes are names: where a model meets data, or weights a model, their names are compared."""

from __future__ import annotations

from collections.abc import Sequence


def are_names(names: Sequence[str]) -> bool:
    """False if they are the numbers that stand for classes whose names are not known."""
    numbers = range(len(names))
    return list(names) not in ([f"{n}" for n in numbers], [f"LABEL_{n}" for n in numbers])


def are_same(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    """True if the names are equal, in their order; case and space around them do not count."""
    return _folded(ours) == _folded(theirs)


def places(ours: Sequence[str], theirs: Sequence[str]) -> list[int] | None:
    """The place in ``theirs`` of each of ``ours``; None if they are not the same names."""
    ours, theirs = _folded(ours), _folded(theirs)
    if sorted(ours) != sorted(theirs):
        return None
    return [theirs.index(name) for name in ours]


def difference(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """What ``ours`` have and lack against ``theirs``, in words, at most five names of each."""
    if places(ours, theirs) is not None:
        return f"they are in another order, {_listed(ours)} for {_listed(theirs)}"
    only_here = [name for name in ours if name not in theirs]
    only_there = [name for name in theirs if name not in ours]
    parts = [f"{len(ours)} here, {len(theirs)} there"]
    parts += [f"only here {_listed(only_here)}"] * bool(only_here)
    parts += [f"only there {_listed(only_there)}"] * bool(only_there)
    return "; ".join(parts)


def _folded(names: Sequence[str]) -> list[str]:
    """Names in lower case, without space around them, unless two of them would then be one."""
    folded = [name.strip().casefold() for name in names]
    return folded if len(set(folded)) == len(folded) else list(names)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + ", ..." * (len(names) > 5)
