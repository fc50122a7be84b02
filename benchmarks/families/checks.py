"""What is checked of a family: each check returns a short verdict, and never raises."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import relprop
from benchmarks.families.entry import Example, Padded
from benchmarks.families.weights import own_tokens, without_constants

EXACT, CONSERVED = 1e-9, 1e-6  # of the largest value
WEIGHED = 1e-6  # some models take the softmax in float32, whatever their own precision
ROUNDING = 1e-12  # of what cancels
PRODUCTS = ("transformer_attribution", "generic_attention")  # and rollout


@dataclass(frozen=True)
class Verdict:
    """``outcome``: ok, refused (an UnsupportedModel, its words in ``says``), off (it ran, and
    ``says`` by how much or what is not finite) or failed (it raised anything else)."""

    outcome: str
    says: str = ""

    def __str__(self) -> str:
        return self.says if self.outcome == "refused" else f"{self.outcome} {self.says}".strip()


def check(function: Callable[..., Verdict]) -> Callable[..., Verdict]:
    """Makes a verdict of whatever a check raises, too."""

    @functools.wraps(function)
    def guarded(*args, **kwargs) -> Verdict:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of relevance that grows: the verdict says it
                return function(*args, **kwargs)
        except relprop.UnsupportedModel as refusal:
            return Verdict("refused", " ".join(str(refusal).split()))
        except Exception as error:  # a crash is one row of the table
            return Verdict("failed", f"{type(error).__name__}: {' '.join(str(error).split())}")

    return guarded


def within(off: float, limit: float) -> Verdict:
    """How far off it is; nothing is within the limit that is not a number."""
    return Verdict("ok" if off <= limit else "off", f"{off:.0e}" if off > 0 else "0")


@check
def explained(example: Example, method: str = "attnlrp", **options) -> Verdict:
    """``method`` gives a finite map of each source."""
    found = maps(example, method, **options)
    broken = [name for name, r in found.items() if not r.isfinite().all()]
    if broken:
        return Verdict("off", f"not finite at {', '.join(broken)}")
    is_empty = not any(r.any() for r in found.values())
    return Verdict("off", "0 everywhere") if is_empty else Verdict("ok")


def maps(example: Example, method: str, inputs=None, **options) -> dict[str, Tensor]:
    """The relevance of each source, by its name."""
    inputs = example.inputs if inputs is None else inputs
    target = example.target
    if target is None:
        with torch.no_grad():
            target = example.classes(example.run(inputs))
    explanation = relprop.explain(example.model, inputs, target, method, **example.asked, **options)
    sources = getattr(explanation, "sources", None) or {"input": explanation}
    return {name: source.relevance for name, source in sources.items()}


@check
def gradient(example: Example) -> Verdict:
    """The walk without corrections is autograd's input x gradient, at every source."""
    trace = relprop.record(example.model, example.inputs, **example.asked)
    expected = input_x_gradient(example)
    target = example.classes(trace.logits)
    found = of_sources(trace.input_relevance(target, rules=relprop.rules.GRADIENT), expected)
    if len(found) != len(expected):
        return Verdict("off", f"sources {', '.join(found)}, not {', '.join(expected)}")
    largest = max(e.abs().max().item() for e in expected.values())
    off = max(distance(f, e) for f, e in paired(found, expected))
    return within(off / largest, EXACT) if largest else Verdict("off", "autograd has 0 everywhere")


def distance(found: Tensor, expected: Tensor) -> float:
    """Of a learned parameter, autograd has one for the whole batch."""
    if found.ndim > expected.ndim or (
        found.shape != expected.shape and len(expected) != len(found)
    ):
        found = found.sum(0)
    if found.numel() != expected.numel():
        return float("inf")
    return (found.reshape_as(expected) - expected).abs().max().item()


def of_sources(found: Tensor | Mapping[str, Tensor], names: Mapping[str, Tensor]) -> dict:
    """By name, also where there is one source alone."""
    return dict(found) if isinstance(found, Mapping) else {next(iter(names)): found}


def paired(found: dict[str, Tensor], expected: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """By name; what has no name of the inputs, in the order of the forward pass."""
    rest = iter([name for name in found if name not in expected])
    return [(found[name if name in found else next(rest)], e) for name, e in expected.items()]


def input_x_gradient(example: Example) -> dict[str, Tensor]:
    """Autograd's own, by a plain forward pass: no part of relprop takes part.

    Of numbers that are no mask, of the first look-up of each of the ids, of ``learned`` parameters.
    """
    keywords = {
        name: x.clone().requires_grad_() if is_number(name, x) else x
        for name, x in example.keywords.items()
    }
    learned = {n: example.model.get_parameter(n) for n in example.asked.get("learned", ())}
    with torch.enable_grad(), looked_up(example.model, keywords) as embedded:
        alone = not isinstance(example.inputs, Mapping)
        scores = example.run(keywords["input"] if alone else keywords)
        of = {name: x for name, x in keywords.items() if is_number(name, x)} | embedded | learned
        y = scores[torch.arange(len(scores)), example.classes(scores)].sum()
        gradients = torch.autograd.grad(y, list(of.values()), allow_unused=True)
    pairs = zip(of.items(), gradients, strict=True)
    return {n: (torch.zeros_like(x) if g is None else x * g).detach() for (n, x), g in pairs}


def is_number(name: str, x: Tensor) -> bool:
    return x.is_floating_point() and "mask" not in name


def same(ids: Tensor, others: object) -> bool:
    return isinstance(others, Tensor) and ids.shape == others.shape and torch.equal(ids, others)


@contextmanager
def looked_up(model: nn.Module, keywords: Mapping[str, Tensor]):
    """The first embedding of each of the ids, by the name of the input, while it runs.

    Other ids that are looked up in the same weights (a decoder's, shifted) come after. The model
    goes on with copies: some models write into them.
    """
    given = {name: x for name, x in keywords.items() if name.endswith("input_ids")}
    found, seen, tables = {}, [], []

    def keep(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        names = [n for n, x in given.items() if same(x, args[0]) and n not in found]
        again = any(same(ids, args[0]) for ids in seen)
        if not again and (names or any(module.weight is table for table in tables)):
            seen.append(args[0])
            tables.append(module.weight)
            found[names[0] if names else f"look-up {len(seen)}"] = output
        return output.clone()

    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    hooks = [module.register_forward_hook(keep) for module in embeddings if given]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@check
def conserved(example: Example) -> Verdict:
    """Epsilon, with eps 0, sums to the 1 that it starts with.

    On a copy without anything that adds; where it does not, ``says`` has what of it is known.
    """
    model = without_constants(example.model)
    asked = example.asked
    trace = relprop.record(model, example.inputs, **asked)
    target = example.classes(trace.logits)
    if not trace.logits.abs().max() > 1e-12:
        return Verdict("off", "the copy's logits are 0: nothing to conserve")
    found = trace.input_relevance(target, rules=relprop.rules.epsilon, eps=0.0)
    maps = [r.flatten(1) for r in of_sources(found, {"input": found}).values()]
    off = (sum(r.sum(1) for r in maps) - 1).abs().max().item()
    verdict = within(off, CONSERVED)
    if verdict.outcome == "ok":
        return verdict
    largest = max(r.abs().sum(1).max().item() for r in maps)
    if off < ROUNDING * largest:
        reason = f"rounding, of relevance that cancels: {largest:.0e}"
    elif adds_constants(model, example):
        reason = "a blank input has other scores than 0, also without them"
    elif own_tokens(model):
        reason = "relevance ends in the model's own tokens too"
    elif any("SinePosition" in type(module).__name__ for module in model.modules()):
        reason = "positions that the model computes take a share of the scores' relevance"
    else:
        reason = UNKNOWN
    return Verdict("off", f"{verdict.says}: {reason}")


@torch.no_grad()
def adds_constants(model: nn.Module, example: Example) -> bool:
    """The scores of a blank input are not 0, though biases and the like are."""
    blank = {n: torch.zeros_like(x) if is_number(n, x) else x for n, x in example.keywords.items()}
    alone = not isinstance(example.inputs, Mapping)
    example = dataclasses.replace(example, model=model)
    is_blank = any(is_number(name, x) for name, x in blank.items())
    return is_blank and bool(example.run(blank["input"] if alone else blank).abs().max() > 1e-9)


@check
def weighed(example: Example, method: str = "rollout") -> Verdict:
    """The weights of all sources sum to 1 (2 for two towers) for each sample.

    The model's own tokens are sources as well. Where they do not, ``says`` has why.
    """
    sums = sum(r.flatten(1).sum(1) for r in maps(with_own_tokens(example), method).values())
    if ((sums - example.starts).abs() <= WEIGHED).all():
        return Verdict("ok")
    is_less = bool((sums > 0).all() and (sums <= example.starts + WEIGHED).all())
    reason = PADDED if is_less and pads(example) else UNKNOWN
    low, high = sums.min().item(), sums.max().item()
    return Verdict("off", f"{low:.3g} to {high:.3g}, not {example.starts}: {reason}")


PADDED = "a part ends in what the model pads its tokens with"
UNKNOWN = "why is not known"


def with_own_tokens(example: Example) -> Example:
    """The example with the model's own tokens as sources, of which each sample has its row."""
    learned = list(example.asked.get("learned", ()))  # type: ignore[call-overload]
    for name in own_tokens(example.model):
        asked = example.asked | {"learned": [*learned, name]}
        try:
            relprop.record(example.model, example.inputs, **asked)
        except ValueError as error:  # a mask's, say, which no sample has
            if f"'{name}' is not made into tokens" not in str(error):
                raise
        else:
            learned.append(name)
    return dataclasses.replace(example, asked=example.asked | {"learned": learned})


class Pads(TorchFunctionMode):
    """Notes whether tensors are padded."""

    found = False

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") == "pad":
            self.found |= max(kwargs["pad"] if kwargs and "pad" in kwargs else args[1]) > 0
        return function(*args, **(kwargs or {}))


@torch.no_grad()
def pads(example: Example) -> bool:
    """Whether the model puts zeros around its tokens, as windows that do not fit need them."""
    with Pads() as seen:
        example.run(example.inputs)
    return seen.found


@check
def products(example: Example) -> Verdict:
    """The methods that multiply attention maps are finite, and their weights sum to 1.

    Those of rollout, and of raw_attention where one map leads to the input.
    """
    verdicts = {method: explained(example, method) for method in PRODUCTS}
    verdicts["rollout's sum"] = weighed(example)
    of_one = weighed(example, "raw_attention")
    if of_one.outcome != "refused":
        verdicts["raw_attention's sum"] = of_one
    for outcome in ("failed", "off", "refused"):
        for name, verdict in verdicts.items():
            if verdict.outcome == outcome:
                return Verdict(outcome, f"{name}: {verdict.says}")
    return Verdict("ok")


@check
def padding(example: Example, method: str = "attnlrp") -> Verdict:
    """A padded sample is explained as the sample alone, on each side."""
    return within(max(_padded(example, method, p) for p in example.padded.values()), 1e-6)


def _padded(example: Example, method: str, padded: Padded) -> float:
    with torch.no_grad():
        scores = example.run(padded.inputs), example.run(padded.alone)
    if not torch.allclose(scores[0][padded.row], scores[1][0], rtol=1e-5, atol=1e-6):
        raise AssertionError("the model's own scores of a padded sample differ")
    target = torch.zeros(1, dtype=torch.long)
    alone = Example(example.model, padded.alone, example.asked, target)
    batch = Example(example.model, padded.inputs, example.asked, target.expand(2))
    found, expected = maps(batch, method), maps(alone, method)
    name = next(iter(expected))
    f, e = found[name][padded.row], expected[name][0]
    kept = f[padded.tokens]
    outside = f.abs().sum() - kept.abs().sum()
    return (((kept - e).abs().max() + outside.abs()) / e.abs().max()).item()


@torch.no_grad()
def perturbed(example: Example, method: str = "attnlrp", part: float = 0.1) -> tuple[float, float]:
    """By how much the logit falls, on average, without the most and the least relevant patches.

    For trained models of one source that is pictures [B, C, H, W]. ``part``: of the patches, which
    become 0, the mean of normalised pixels.
    """
    images = next(iter(example.keywords.values()))
    scores = example.run(example.inputs)
    target = scores.argmax(1)
    explanation = relprop.explain(example.model, example.inputs, target, method, **example.asked)
    count = max(1, round(part * explanation.relevance.shape[1]))
    order = explanation.relevance.argsort(dim=1, descending=True)

    def fall(without: Tensor) -> float:
        kept = torch.ones_like(explanation.relevance).scatter(1, without, 0.0)
        grid = kept.unflatten(1, explanation.grid)[:, None]
        kept = nn.functional.interpolate(grid, images.shape[2:], mode="nearest")
        without_them = example.run(images * kept.to(images))
        return (scores - without_them)[torch.arange(len(target)), target].mean().item()

    return fall(order[:, :count]), fall(order[:, -count:])
