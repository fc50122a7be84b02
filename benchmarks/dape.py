"""How far a small BERT reads beyond the length of its training, by what it knows of positions.

python -m benchmarks.dape                          (configs/bert_dape.yaml, every arm, three seeds)
python -m benchmarks.dape --seeds 0 --options trainer.max_epochs=1 --output FOLDER

Every arm trains on the same reviews in the same order. A row has the accuracy on test reviews of
the length in training, and on the same reviews made two and four times as long, and what is lost
with the length; token F1 of the
maps of the first; and the share of relevance that the bias channels of the first convolutions take,
which is lost. Every row is kept in OUTPUT/rows.jsonl as soon as it is measured, and a second call
goes on there.
"""

from __future__ import annotations

import functools
import logging
import statistics
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
from torch.utils.data import DataLoader, Subset

from benchmarks.arms_report import deviation
from benchmarks.by_seed import measured, parsed, print_differences, print_table
from benchmarks.kept_rows import Rows
from lightning_modules.experiment import Ended
from lightning_modules.metrics import TokenF1
from relprop.rules import PAPER

CONFIG = Path(__file__).parents[1] / "configs" / "bert_dape.yaml"
PLAIN = ["model.attention=sdpa", "model.dape=null"]
ARMS = {
    "absolute": [*PLAIN, "model.positions=absolute"],
    "none": PLAIN,
    "Kerple": ["model.dape={bias: kerple, kernel: null}"],
    "Kerple, kernel 1": ["model.dape={bias: kerple, kernel: 1}"],
    "Kerple, kernel 3": ["model.dape={bias: kerple, kernel: 3}"],
    "ALiBi, kernel 3": ["model.dape={bias: alibi, kernel: 3}"],
    "no bias, kernel 3": ["model.dape={bias: none, kernel: 3}"],  # knows an order, and no distance
}
STEPS = (  # what each part brings, paired by seed
    ("none", "absolute"),
    ("Kerple", "absolute"),
    ("Kerple, kernel 1", "Kerple"),
    ("Kerple, kernel 3", "Kerple, kernel 1"),
    ("Kerple, kernel 3", "absolute"),
    ("ALiBi, kernel 3", "Kerple, kernel 3"),
    ("Kerple, kernel 3", "no bias, kernel 3"),
)
LENGTHS = {"1x": "test/accuracy", "2x": "test/2x/accuracy", "4x": "test/4x/accuracy"}
LONGER = "4x less 1x"
FIGURES = [*LENGTHS, LONGER, "token F1"]
LOST = "in bias channels"
MAPS = 200  # reviews whose maps are looked at


def figures(ended: Ended, folder: Path) -> dict[str, float]:
    """What a row has."""
    module, dataset = ended.model.eval(), ended.data.test_dataset
    few = Subset(dataset, range(min(MAPS, len(dataset))))
    f1, lost = TokenF1(None), Lost(module.backbone.config.num_attention_heads)
    for batch in DataLoader(few, 50, collate_fn=ended.data.collate):
        trace = module.record(batch)
        explained = module.explain_trace(trace, batch, batch["label"])
        f1.update(explained.word_scores, batch["rationale"], explained.seen)
        trace.source_relevance(batch["label"], rules=lost.rules())
    found = {name: ended.tested[metric] for name, metric in LENGTHS.items()}
    found[LONGER] = found["4x"] - found["1x"]
    found["token F1"] = float(f1.compute()["macro_f1"])
    return found | ({LOST: lost.share()} if lost.of_bias else {})


class Lost:
    """Relevance at s + b, and at the two halves of [s; b], in absolute numbers over all layers."""

    def __init__(self, heads: int) -> None:
        self.heads = heads
        self.of_scores = self.of_bias = 0.0

    def rules(self) -> dict:
        @functools.wraps(PAPER["add"])
        def add(relevance, output, *args, **kwargs):
            found = PAPER["add"](relevance, output, *args, **kwargs)
            if output.ndim == 4:  # s + b, and what the convolutions make
                self.of_scores += float(found[0].abs().sum())
            return found

        @functools.wraps(PAPER["conv"])
        def conv(relevance, output, input, *args, **kwargs):
            found = PAPER["conv"](relevance, output, input, *args, **kwargs)
            if input.shape[1] == 2 * self.heads:
                of_scores, of_bias = (float(x.abs().sum()) for x in found.chunk(2, dim=1))
                self.of_scores += of_scores
                self.of_bias += of_bias
            return found

        return PAPER | {"add": add, "conv": conv}

    def share(self) -> float:
        return self.of_bias / (self.of_scores + self.of_bias)


# ------------------------------------------------------------------------------------- report


def draw(rows: Rows, path: Path) -> None:
    """Accuracy over the length, a line an arm."""
    figure, axes = plt.subplots(figsize=(6, 4.5), layout="constrained")
    times = [int(name.removesuffix("x")) for name in LENGTHS]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        of_arm = [[100 * row[x] for row in rows if row["arm"] == arm] for x in LENGTHS]
        means, spreads = map(statistics.mean, of_arm), map(deviation, of_arm)
        axes.errorbar(times, list(means), yerr=list(spreads), marker="o", capsize=3, label=arm)
    axes.set_xscale("log", base=2)
    axes.set_xticks(times, list(LENGTHS))
    axes.set(xlabel="length of the reviews, by that in training", ylabel="test accuracy, %")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    chosen = parsed("python -m benchmarks.dape", __doc__, ARMS, "runs/dape")
    rows = measured(chosen, ARMS, figures, CONFIG)
    print_table(rows)
    print_differences(rows, STEPS, FIGURES)
    draw(rows, chosen.output / "dape.png")


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    main()
