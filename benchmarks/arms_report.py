"""The table and the picture of benchmarks.arms."""

from __future__ import annotations

import statistics
from pathlib import Path

import matplotlib.pyplot as plt
import scipy.stats

MAP, DECISION = "on object, generic_attention", "changed by marker"


def chosen_weight(rows: list[dict], arm: str, seeds: list[int]) -> float:
    """The weight of an arm that has the highest mean val/object_only over these seeds."""
    scores: dict[float, list[float]] = {}
    for row in rows:
        if row["arm"] == arm and row["seed"] in seeds:
            scores.setdefault(row["weight"], []).append(row["val/object_only"])
    return max(scores, key=lambda weight: statistics.mean(scores[weight]))


def print_table(rows: list[dict]) -> None:
    """Means and standard deviations over the seeds; paired by seed, shift less that of plain.

    ``rows`` have one weight an arm.
    """
    names = [x for x in rows[0] if x not in ("arm", "weight", "seed", "options")]
    headings = ["arm", "weight", "seeds", *names, "shift less plain, points", "by seed"]
    print("|", " | ".join(headings), "|")
    print("| --- " * len(headings) + "|")
    plain = {row["seed"]: row["shift"] for row in rows if row["arm"] == "plain"}
    for arm in dict.fromkeys(row["arm"] for row in rows):
        of_arm = [row for row in rows if row["arm"] == arm]
        cells = [spread([row[name] for row in of_arm]) for name in names]
        less = [100 * (r["shift"] - plain[r["seed"]]) for r in of_arm if r["seed"] in plain]
        cells += [interval(less), ", ".join(f"{x:+.1f}" for x in less)]
        weight = of_arm[0]["weight"]
        shown = f"{weight:g}" if weight else ""
        print("|", " | ".join([arm, shown, str(len(of_arm)), *cells]), "|")


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ± {deviation(values):.3f}"


def interval(values: list[float]) -> str:
    """The mean and its 95% interval, by Student's t."""
    if len(values) < 2 or len(set(values)) == 1:
        return ", ".join(f"{x:+.1f}" for x in values[:1])
    mean, error = statistics.mean(values), statistics.stdev(values) / len(values) ** 0.5
    low, high = scipy.stats.t.interval(0.95, len(values) - 1, mean, error)
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def draw(rows: list[dict], path: Path) -> None:
    """Where the map of each arm lies, and how many decisions the marker changes."""
    figure, axes = plt.subplots(figsize=(6, 4.5), layout="constrained")
    for arm in dict.fromkeys(row["arm"] for row in rows if row["arm"] != "base"):
        of_arm = [row for row in rows if row["arm"] == arm]
        x, y = ([100 * row[name] for row in of_arm] for name in (MAP, DECISION))
        at, spreads = (statistics.mean(x), statistics.mean(y)), (deviation(x), deviation(y))
        mark = "s" if "shuffled" in arm else "o"
        axes.errorbar(*at, xerr=spreads[0], yerr=spreads[1], fmt=mark, label=arm, alpha=0.8)
        below = arm == "shuffled"  # beside the control of exact, which is near
        axes.annotate(
            arm, at, xytext=(4, -11 if below else 4), textcoords="offset points", fontsize=8
        )
    axes.set_xlabel("positive relevance on the object, %")
    axes.set_ylabel("decisions that the marker changes, %")
    axes.set(title=path.stem, ylim=(0, None))
    axes.margins(x=0.12)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def deviation(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0
