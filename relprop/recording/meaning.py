"""What a recorded call means: what its record, and the tag of its output, hold of their own."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from relprop.recording import operations as ops
from relprop.recording.graph import Product
from relprop.recording.operations import Operation
from relprop.recording.record import AttentionMap, Recording
from relprop.recording.stacks import of_stack
from relprop.recording.tags import (
    ATTENTION,
    EXPONENTIAL,
    SCORES,
    State,
    Tag,
    on_path,
    role,
    shares,
    tag,
)


def meaning_of(
    recording: Recording, operation: Operation, args, kwargs, tensors, streams, output, number: int
) -> tuple[dict, dict]:
    """What a call and the tag of its output have beside what they always have."""
    first = tag(streams[0])
    known: dict[str, Any] = {}
    if operation.unchanged:
        if operation is ops.EXP and first.role == SCORES:
            recording.exponentials.setdefault(first.origin, []).append(number)
            return {}, _of_unchanged(operation, first) | {"role": EXPONENTIAL}
        if operation is ops.SOFTMAX and len(streams) == 2:  # exp / sum, of one gradient
            recording.running.own.update(recording.exponentials.get(first.origin, ()))
            return {}, _of_unchanged(operation, first) | {"role": ATTENTION}
        return {}, _of_unchanged(operation, first)
    if operation.name in ("matmul", "einsum", "product"):
        of_call, of_output = _of_product(recording, operation, args, tensors, streams, output)
        return of_call, of_output | ({"rows": 0} if operation.mixes else {})
    if operation is ops.ADD:
        return _of_sum(tensors, streams, number)
    if operation in (ops.MUL, ops.GATE):
        pending = [bool(tag(x).pending) for x in streams]
        parts = (0.5, 0.5) if pending[0] == pending[1] else tuple(map(float, pending))
        return {"shares": parts}, {}
    changes: dict = {"mixed": True, "rows": 0} if operation.mixes else {}
    if first.stack is not None:
        known, more = of_stack(operation, args, kwargs, first.stack)
        changes |= more
    if operation in ops.OF_CHANNELS:
        known["flattened"] = first.flattened
        changes["channels"] = 1 if output.ndim > 2 and len(tensors[1].shape) > 2 else -1
    if operation is ops.CONV:
        known["padded"] = first.padded
    if operation is ops.CONV and first.role == SCORES:
        changes |= {"role": SCORES, "query": first.query, "key": first.key}
    is_last = output.shape == (*streams[0].shape[:-1], 1)
    if operation in (ops.MEAN, ops.SUM, ops.STATISTIC):
        is_norm = operation is ops.STATISTIC and first.norm_of < 0 and not is_last
        changes["norm_of"] = first.number if is_norm else first.norm_of
    if operation in (ops.MEAN, ops.SUM, ops.STATISTIC) and is_last:
        changes |= {"origin": first.origin, "multiple": False, "statistic": True}
        if operation is ops.SUM and first.role == EXPONENTIAL:
            changes["role"] = EXPONENTIAL
    return known, changes


def _of_product(
    recording: Recording, operation: Operation, args, tensors, streams, output
) -> tuple[dict, dict]:
    tags = [tag(x) for x in streams]
    of_map = next((i for i, x in enumerate(tensors) if role(x) == ATTENTION), None)
    found = None
    if of_map is not None and operation is ops.EINSUM:
        found = _letters_of_einsum(args[0], of_map)
    elif of_map is not None and operation is ops.MATMUL:
        found = _letters_of_matmul(tensors, of_map)
    by_token = operation is ops.EACH
    if of_map is not None and operation.name == "product":
        x = tensors[of_map]
        if by_token and tag(x).to_constants:  # softmax(q K) V: a function of each token alone
            return {"by_token": True}, {}
        if output.shape[:-1] != x.shape[:-1]:
            return {"shares": (None,)}, {}
        number = _attention(recording, x, None, tuple(range(x.ndim)))
        return {"shares": (None,)}, _attended(recording, number, tag(x).pending)
    if found is None or not on_path(tensors[found[1]]):
        query, key = (tags[0].state if len(tags) > 1 else None), tags[-1].state
        changes = {"role": SCORES, "query": query, "key": key, "depth": tags[0].depth}
        return {"by_token": by_token}, changes | {"to_constants": by_token}
    letters, values, order = found
    number = _attention(recording, tensors[of_map], tensors[values], order)
    product = Product(number, values, letters, fused=tensors[of_map].ndim == 3)
    after = tag(tensors[of_map]).pending | tag(tensors[values]).pending
    return {"product": product}, _attended(recording, number, after)


def _attended(recording: Recording, number: int, after: frozenset[int]) -> dict:
    """What the tag of A V has."""
    map = recording.maps[number]
    changes: dict[str, Any] = {"pending": frozenset((number,)), "depth": map.depth + 1}
    return changes | {"state": map.query, "mixed": False, "after": after}


def _attention(
    recording: Recording, x: Tensor, values: Tensor | None, order: tuple[int, ...]
) -> int:
    """The number of an attention map that values are multiplied by; None: by constants."""
    maps, of_map = recording.maps, tag(x)
    key = of_map.key if values is None else tag(values).state
    number = next((i for i, known in enumerate(maps) if known.tensor is x), len(maps))
    if number == len(maps):
        where = None if values is None else (get_gradient_edge(values), values.shape)
        states = (of_map.query, key)
        maps.append(AttentionMap(x, order, of_map.number, of_map.depth, *states, where))
        recording.running.blocks += 1
        recording.calls.clear()
    elif maps[number].key is not key:
        maps[number].again = True
    maps[number].apart |= values is not None and tag(values).apart
    return number


Letters = tuple[tuple[str, str, str], int, tuple[int, ...]]


def _letters_of_matmul(tensors: list[Tensor], of_map: int) -> Letters | None:
    """Letters of A [b, h, ..., n, m], V and A V, which tensor V is, and the order that A takes.

    None where it is not known which are the queries and the keys.
    """
    map, values = tensors[of_map], tensors[1 - of_map]
    base = {3: "b", 4: "bh", 5: "bhx", 6: "bhxy"}.get(map.ndim)
    if base is None or values.ndim != map.ndim:
        return None
    order = tuple(range(map.ndim))
    if of_map == 0:  # [..., n, m] [..., m, d]
        return (base + "nm", base + "md", base + "nd"), 1, order
    return (base + "nm", base + "dm", base + "dn"), 0, (*order[:-2], order[-1], order[-2])


def _letters_of_einsum(equation: str, of_map: int) -> Letters | None:
    """As :func:`_letters_of_matmul`; other operands than A and V are gates."""
    inputs, _, of_output = equation.replace(" ", "").partition("->")
    of_inputs = inputs.split(",")
    of_a = of_inputs[of_map]
    keys = [letter for letter in of_a if letter not in of_output]
    values = [i for i, x in enumerate(of_inputs) if i != of_map and keys and keys[0] in x]
    if not of_output or len(of_a) < 3 or (len(keys), len(values)) != (1, 1):
        return None
    of_v = of_inputs[values[0]]
    queries = [letter for letter in of_a if letter in of_output and letter not in of_v]
    if len(queries) != 1:
        return None
    rest = [letter for letter in of_a if letter not in (*keys, *queries)]
    canonical = "".join((*rest, *queries, *keys))
    return (canonical, of_v, of_output), values[0], tuple(of_a.index(x) for x in canonical)


def _of_unchanged(operation: Operation, first: Tag) -> dict:
    changes: dict[str, Any] = {"role": first.role, "query": first.query, "key": first.key}
    changes |= {"form": first.form, "to_constants": first.to_constants}
    if operation is ops.SOFTMAX:
        changes["multiple"] = False
        if first.role == SCORES:
            changes["role"] = ATTENTION
    if operation is ops.ACTIVATION and first.role == EXPONENTIAL:
        changes["role"] = SCORES
    if operation.elementwise:
        changes |= {"origin": first.origin, "multiple": first.multiple and operation.scales}
        changes |= {"statistic": first.statistic, "stack": first.stack, "norm_of": first.norm_of}
    return changes


def _of_sum(tensors: list[Tensor], streams: list[Tensor], number: int) -> tuple[dict, dict]:
    tags = [tag(x) for x in streams]
    if tags[0].role == SCORES:
        changes = {"role": SCORES, "query": tags[0].query, "key": tags[0].key}
        return {"of_scores": True}, changes
    if len(tags) == 1:
        known = {"shares": tuple(1.0 if on_path(x) else None for x in tensors)}
        if not tags[0].pending:
            return known, {"form": tags[0].form}
        if tags[0].stack is not None:
            return known | {"unclear": True}, {}
        # To tokens that are constants: there is no I.
        maps, query = tuple(sorted(tags[0].pending)), tags[0].state
        state = State(number, None, maps, () if query is None else query.home, query=query)
        return known, {"apart": False, "state": state, "pending": frozenset(), "after": frozenset()}
    if (found := shares(*tags)) is None:
        return {"unclear": True}, {}
    *parts, attention = found
    known = {"shares": tuple(parts)}
    if attention is None:
        return known, {}
    if tags[attention].stack is not None:
        return {"unclear": True}, {}
    maps, base = tuple(sorted(tags[attention].pending)), tags[1 - attention].state
    known |= {"maps": maps, "pending": (attention == 0, attention == 1)}
    state = State(number, base, maps, () if base is None else base.home)
    nothing: dict[str, Any] = {"pending": frozenset(), "after": frozenset()}
    return known, nothing | {"state": state, "mixed": False, "apart": False, "stack": None}
