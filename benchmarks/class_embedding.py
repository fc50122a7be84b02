"""Where a class can be read in a ViT, block by block, and what the gradient of that explains.

python -m benchmarks.class_embedding                  (configs/vit_digits.yaml; minutes)
python -m benchmarks.class_embedding --run RUN_DIR --output FOLDER

After "Analyzing Vision Transformers for Image Classification in Class Embedding Space" (Vilas,
Schaumloeffel, Roig; NeurIPS 2023): the identity of the class token with the logits, curves of
identifiability over blocks with a permutation test, and scores of class_gradient. The scores lie in
OUTPUT as soon as they are measured, and a second call goes on there.
"""

from __future__ import annotations

import dataclasses
import logging
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

import relprop
from benchmarks.lora import CONFIGS
from benchmarks.scores import print_table, scored
from configs.schema import load_config, load_data_config
from lightning_modules.callbacks.class_formation import marks_of
from lightning_modules.data import DATAMODULES, DataModule
from lightning_modules.experiment import experiment
from lightning_modules.metrics.identifiability import identifiability
from lightning_modules.models.checkpoints import load_classifier
from lightning_modules.models.classifier import Classifier
from lightning_modules.utils.checkpoint_files import find_checkpoint
from lightning_modules.utils.cli import Parser

DRAWS = 300
KINDS = ("class token", "ink", "background")
METHODS = [
    *("class_gradient", "class_gradient_of_logit", "generic_attention"),
    *("transformer_attribution", "random", "constant"),
]


@relprop.method("class_gradient_of_logit", signed=True)
def class_gradient_of_logit(trace, target, options):
    """class_gradient of the block's own logit of the class, in place of its cross entropy."""

    def one_hot(z: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(target, z.shape[1]).to(z.dtype)

    G = trace.branch_gradient(one_hot)[options.start_layer :]
    return trace.of_entering([g.sum(dim=(1, 2)) for g in G], options.start_layer)


@dataclasses.dataclass
class Tokens:
    """Of samples of a model with a class token: ``r`` [B, blocks, 1 + P], ``ink`` [B, P]."""

    r: Tensor
    ink: Tensor
    identity: float  # largest difference of the class token's last projection and the logits
    accuracy: float

    def mean(self, kind: str, of: Tensor, ink: Tensor | None = None) -> Tensor:
        """Mean over samples of means over their tokens of a kind, [blocks]; ``of`` as ``r``."""
        if kind == "class token":
            return of[:, :, 0].double().mean(dim=0)
        ink = self.ink if ink is None else ink
        chosen = (ink if kind == "ink" else ~ink).double()
        of_sample = torch.einsum("blp,bp->bl", of[:, :, 1:].double(), chosen)
        return (of_sample / chosen.sum(dim=1, keepdim=True)).mean(dim=0)


def tokens_of(module: Classifier, data: DataModule, samples: int) -> Tokens:
    """Identifiability of every token of the first validation samples."""
    loader = DataLoader(
        Subset(data.val_dataset, range(samples)), data.batch_size, collate_fn=data.collate
    )
    r, ink, furthest, right = [], [], 0.0, 0
    for batch in loader:
        trace = module.record(batch)
        logits = torch.stack([trace.project(state) for state in trace.states()], dim=1)
        furthest = max(furthest, float((logits[:, -1, 0] - trace.logits).abs().max()))
        right += int((trace.logits.argmax(dim=1) == batch["label"]).sum())
        r.append(identifiability(logits, batch["label"]))
        everywhere = torch.ones(len(logits), logits.shape[2], dtype=torch.bool)
        ink.append(marks_of(trace, batch, everywhere)[:, trace.prefix :])
    return Tokens(torch.cat(r), torch.cat(ink), furthest, right / samples)


def permuted(tokens: Tokens, of: Tensor) -> tuple[Tensor, Tensor]:
    """Ink less background in each block, and its two-sided p of a permutation test, [blocks] each.

    A draw deals the marks of ink to other patches of the same sample.
    """
    generator = torch.Generator().manual_seed(0)

    def difference(ink: Tensor) -> Tensor:
        return tokens.mean("ink", of, ink) - tokens.mean("background", of, ink)

    found, beyond = difference(tokens.ink), 1
    for _ in range(DRAWS):
        order = torch.rand(tokens.ink.shape, generator=generator).argsort(dim=1)
        beyond = beyond + (difference(tokens.ink.gather(1, order)).abs() >= found.abs()).long()
    return found, beyond / (DRAWS + 1)


Means = dict[tuple[str, str, str], list[float]]  # by model, kind of tokens, and mean or rate


def curves(models: dict[str, Tokens]) -> Means:
    """Identifiability in each block; printed as a table."""
    blocks, means = next(iter(models.values())).r.shape[1], {}
    print("\n| model | tokens | what |", " | ".join(f"block {b + 1}" for b in range(blocks)), "|")
    print("| --- " * (blocks + 3) + "|")
    for name, tokens in models.items():
        for what, of in (("mean", tokens.r), ("rate", (tokens.r == 1).double())):
            for kind in KINDS:
                means[name, kind, what] = tokens.mean(kind, of).tolist()
                cells = [f"{x:.3f}" for x in means[name, kind, what]]
                print("|", " | ".join([name, kind, what, *cells]), "|")
            found, p = (x.tolist() for x in permuted(tokens, of))
            cells = [f"{x:+.3f} (p {y:.3f})" for x, y in zip(found, p, strict=True)]
            print("|", " | ".join([name, "ink less background", what, *cells]), "|")
    for name, tokens in models.items():
        best = float((tokens.r[:, -1, 1:] == 1).double().mean())
        print(f"\n{name}: identity {tokens.identity:g}, accuracy {tokens.accuracy:.3f}, ", end="")
        print(f"rate of all patches in the last block {best:.3f}", flush=True)
    return means


def draw(means: Means, path: Path) -> None:
    """Curves over blocks: mean identifiability, and its rate."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    for (name, kind, what), values in means.items():
        places = range(1, len(values) + 1)
        style, colour = "-" if name == "trained" else "--", f"C{KINDS.index(kind)}"
        ax = axes[0 if what == "mean" else 1]
        ax.plot(places, values, style, color=colour, marker="o", label=f"{name}, {kind}")
        ax.set(xlabel="block", xticks=list(places), ylim=(0, 1.03))
    axes[0].set_title("identifiability: 1 - rank / classes")
    axes[1].set_title("rate: the true class is the first")
    axes[0].legend(fontsize=7, loc="lower right")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    parser = Parser("python -m benchmarks.class_embedding", __doc__)
    parser.add_argument("--run", type=Path, help="a trained ViT of digits (default: trained)")
    parser.add_argument("--samples", type=int, default=1000, help="of validation, for the curves")
    parser.add_argument("--limit", type=int, default=200, help="test samples, for the scores")
    parser.add_argument("--output", type=Path, default=Path("runs/class_embedding"))
    chosen = parser.parse_args()
    chosen.output.mkdir(parents=True, exist_ok=True)
    run = chosen.run or chosen.output / "run"
    if not (run / "config.yaml").is_file():
        options = [f"run_dir={run}", "tracker=null", "loggers={}"]
        experiment(load_config(CONFIGS / "vit_digits.yaml", options), None)
    module = load_classifier(find_checkpoint(run))
    options = load_data_config(run / "config.yaml", [])
    data = DATAMODULES[options.pop("kind")](**options)
    torch.manual_seed(0)
    untrained = type(module)(**module.hparams).eval()
    models = {
        name: tokens_of(x, data, chosen.samples)
        for name, x in (("trained", module), ("untrained", untrained))
    }
    draw(curves(models), chosen.output / "class_embedding.png")
    for protocol in ("specificity", "perturbation"):
        asked = (protocol, METHODS, "class_gradient", chosen.limit)
        found = scored({run.name: run}, *asked, chosen.output)
        print_table(protocol, found, "class_gradient", chosen.limit)


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    main()
