"""How far maps of a model with adapters differ from those of the same model merged.

python -m benchmarks.lora                    (digits and reviews, seeds 0 and 1)
python -m benchmarks.lora digits --seeds 0 1 2 --train-size 1000

Per seed a model is trained, and then adapters in its blocks (model.lora), on other samples of the
same kind. The two maps of a sample, for the predicted class, differ by |unmerged - merged| over
|merged| (Euclidean): a row for each method has the median and the largest of all samples and seeds.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor

import relprop
from benchmarks.measure import progress
from benchmarks.models import METHODS
from configs.schema import load_config
from lightning_modules.experiment import Ended, experiment
from lightning_modules.utils.cli import Parser

SAMPLES = 64
CONFIGS = Path(__file__).parents[1] / "configs"
OF = {  # config, epochs of the base, epochs of the adapters
    "digits": ("vit_digits.yaml", 8, 4),
    "reviews": ("bert_reviews.yaml", 4, 3),
}


def trained(config: str, folder: Path, *options: str) -> Ended:
    """A run without tracker and loggers, tested."""
    options = (f"run_dir={folder}", "tracker=null", "loggers={}", *options)
    return experiment(load_config(CONFIGS / config, options), None)


def adapted(name: str, seed: int, train_size: int | None) -> Ended:
    """A model with trained adapters; of the config's number of samples where none is given."""
    config, of_base, of_adapters = OF[name]
    with tempfile.TemporaryDirectory() as folder:
        base, run = Path(folder, "base"), Path(folder, "run")
        size = [f"data.train_size={train_size}"] * (train_size is not None)
        trained(config, base, *size, f"seed={seed}", f"trainer.max_epochs={of_base}")
        options = [
            *size,
            f"seed={100 + seed}",
            f"trainer.max_epochs={of_adapters}",
            "model.lora={}",
        ]
        options += [f"data.tokenizer={base}"] if name == "reviews" else []
        return trained(config, run, *options, f"model.weights={base}")


def differences(ended: Ended) -> dict[str, Tensor]:
    """By method, and of the logits: [samples]."""
    module, data = ended.model.eval(), ended.data
    batch = next(
        iter(torch.utils.data.DataLoader(data.test_dataset, SAMPLES, collate_fn=data.collate))
    )
    merged = module.record(batch)
    unmerged = relprop.record(module.backbone, module.inputs(batch))
    logits = [module.logits(trace, batch) for trace in (merged, unmerged)]
    found = {"(logits)": difference(*logits)}
    for method in progress(METHODS, "methods"):
        explained = [
            module.explain_trace(trace, batch, logits[0].argmax(dim=1), method)
            for trace in (merged, unmerged)
        ]
        found[method] = difference(*(x.relevance.nan_to_num(0) for x in explained))
    return found


def difference(merged: Tensor, unmerged: Tensor) -> Tensor:
    """|unmerged - merged| / |merged| of each sample, [B]."""
    merged, unmerged = merged.double().flatten(1), unmerged.double().flatten(1)
    return (unmerged - merged).norm(dim=1) / merged.norm(dim=1).clamp(min=1e-30)


def measure(name: str, seeds: list[int], train_size: int | None) -> None:
    """Print a table."""
    accuracies, found = [], []
    for seed in seeds:
        ended = adapted(name, seed, train_size)
        accuracies.append(f"{ended.tested['test/accuracy']:.3f}")
        found.append(differences(ended))
    print(f"\n{name}: seeds {seeds}, test accuracy {', '.join(accuracies)}\n")
    print("| method | median | largest |\n| --- | --- | --- |")
    for method in found[0]:
        values = torch.cat([of_seed[method] for of_seed in found])
        print(f"| `{method}` | {values.median():.1e} | {values.max():.1e} |", flush=True)


def main() -> None:
    parser = Parser("python -m benchmarks.lora", __doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=" or ".join(OF))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--train-size", type=int, help="training samples (default: the config's)")
    chosen = parser.parse_args()
    for name in chosen.kinds:
        if name not in OF:
            parser.error(f"{name!r}; accepted: {' or '.join(OF)}")
    for name in chosen.kinds or OF:
        measure(name, chosen.seeds, chosen.train_size)


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    main()
