"""The numbers of an evaluation with their intervals, and methods compared on the same samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_modules.metrics import SampledMetric
from lightning_modules.metrics.sampled import ends_of
from lightning_modules.protocols.base import BETTER, Column
from lightning_modules.protocols.baselines import CHANCE

Place = tuple[str, float | None]  # the name of a score, and where on a curve it stands
BEST, NOT_WORSE = "best", "not clearly worse"


@dataclass(frozen=True)
class Score:
    """One number of a table.

    Attributes:
        method: that it is of.
        name: of the score.
        x: its place on a curve; None where it is not of one.
        value: the number.
        low: the lower end of its 95% interval.
        high: the upper end.
        difference: the number less that of the method compared with; None where there is none.
        difference_low: the lower end of the 95% interval of the difference, on the same samples.
        difference_high: the upper end.
        standing: ``best`` among the methods, or ``not clearly worse``: the interval of its
            difference to the best, on the same samples, reaches 0. None of the others.
    """

    method: str
    name: str
    x: float | None
    value: float
    low: float
    high: float
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    standing: str | None = None

    @property
    def differs(self) -> bool:
        """The interval of the difference is clear of 0."""
        return self.difference is not None and not self.difference_low <= 0 <= self.difference_high


@dataclass(frozen=True)
class Drawn:
    """One number of one method, of all samples and of draws of them.

    Attributes:
        value: of all samples.
        draws: of each draw, [draws].
        samples: how many rows it is of.
    """

    value: float
    draws: Tensor
    samples: int

    def less(self, other: Drawn) -> tuple[float, float] | None:
        """Ends of the interval of the difference to another; None where the two are no pairs."""
        if self.samples != other.samples:
            return None
        low, high = ends_of(self.draws - other.draws)
        return float(low), float(high)


def values_of(metrics: Mapping[str, SampledMetric]) -> dict[Place, float]:
    """Every number of a method's metrics, by name and place.

    Named metric/score, or as the score where there is one metric, or the metric has no name. A
    metric without rows says nothing of the method, and has no number.
    """
    result = {}
    for of_metric, metric in with_rows(metrics).items():
        for name, values in metric.score(metric.gathered()).items():
            places = places_of(metrics, of_metric, name, values)
            result |= zip(places, values.reshape(-1).tolist(), strict=True)
    return result


def scores_of(method: str, metrics: Mapping[str, SampledMetric]) -> list[Score]:
    """The numbers of :func:`values_of`, with their intervals."""
    values, scores = values_of(metrics), []
    for of_metric, metric in with_rows(metrics).items():
        for name, ends in metric.intervals().items():
            places = places_of(metrics, of_metric, name, ends[0])
            for place, low, high in zip(
                places, *(x.reshape(-1).tolist() for x in ends), strict=True
            ):
                scores.append(Score(method, *place, values[place], low, high))
    return scores


def with_rows(metrics: Mapping[str, SampledMetric]) -> dict[str, SampledMetric]:
    """Those that have been updated."""
    return {name: metric for name, metric in metrics.items() if len(metric.rows)}


def places_of(
    metrics: Mapping[str, SampledMetric], of_metric: str, name: str, values: Tensor
) -> list[Place]:
    """What the numbers of one score, [] or [places], are called in a table."""
    full = f"{of_metric}/{name}" if len(metrics) > 1 and of_metric else name
    return [(full, place) for place in (metrics[of_metric].places if values.ndim else [None])]


def compared(
    methods: Mapping[str, Mapping[str, SampledMetric]],
    reference: str,
    columns: Sequence[Column] = (),
) -> list[Score]:
    """The numbers of all methods, each beside that of the ``reference``, one of them.

    ``columns``: those whose best method is found, where they say what is better.
    """
    scores = [score for method, metrics in methods.items() for score in scores_of(method, metrics)]
    if len(methods) < 2:
        return scores
    drawn = {method: drawn_of(metrics) for method, metrics in methods.items()}
    standings = {(c.name, c.x): standing(drawn, (c.name, c.x), c.better) for c in columns}
    result = []
    for score in scores:
        place = (score.name, score.x)
        score = replace(score, standing=standings.get(place, {}).get(score.method))
        other = drawn[reference].get(place) if score.method != reference else None
        ends = None if other is None else drawn[score.method][place].less(other)
        if ends is not None:
            score = replace(
                score,
                difference=score.value - other.value,
                difference_low=ends[0],
                difference_high=ends[1],
            )
        result.append(score)
    return result


def drawn_of(metrics: Mapping[str, SampledMetric]) -> dict[Place, Drawn]:
    """The numbers of :func:`values_of`, of draws that are the same for all methods."""
    values, result = values_of(metrics), {}
    for of_metric, metric in with_rows(metrics).items():
        rows = metric.in_order()  # that of the data, in which the rows of methods are pairs
        for name, draws in metric.drawn(rows).items():
            places = places_of(metrics, of_metric, name, draws[0])
            for place, of_place in zip(
                places, draws.flatten(1).T if draws.ndim > 1 else [draws], strict=True
            ):
                result[place] = Drawn(values[place], of_place, len(rows))
    return result


def standing(
    drawn: Mapping[str, Mapping[Place, Drawn]], place: Place, better: str | None
) -> dict[str, str]:
    """The best method in one column, and those not clearly worse than it; none of one method.

    Chance has no part in it.
    """
    numbers = {
        method: of[place] for method, of in drawn.items() if place in of and method not in CHANCE
    }
    if better is None or len(numbers) < 2:
        return {}
    good = BETTER[better]
    worth = {
        method: replace(x, value=float(good(torch.tensor(x.value))), draws=good(x.draws))
        for method, x in numbers.items()
    }
    best = max(worth, key=lambda method: worth[method].value)
    ends = {method: number.less(worth[best]) for method, number in worth.items()}
    near = {method: NOT_WORSE for method, x in ends.items() if x is not None and x[1] >= 0}
    return near | {best: BEST}
