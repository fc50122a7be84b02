"""Decoding Layer Saliency, beside the same saliency without decoding.

python -m benchmarks.decoding --run runs/bert_reviews --layers 1 2 3 --limit 200
python -m benchmarks.decoding --run runs/minilm_sst --limit 300

After "Decoding Layer Saliency" (Hou, Castanon; ICML 2023), which says that saliency of a hidden
layer, decoded into words, is better than that of the embeddings. ``decoded_l`` is decoded_saliency
of the states that enter block l, ``norm_l`` the norm of the gradient to these states as it is;
norm_0 is of the embeddings. The scores lie in OUTPUT, and a second call goes on there.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch

import relprop
from benchmarks.scores import print_table, scored, variant
from lightning_modules.models.checkpoints import load_classifier
from lightning_modules.utils.checkpoint_files import find_checkpoint
from lightning_modules.utils.cli import Parser

SHOWN = ("5", "10", "AUPRC", "compr.", "suff.")


@relprop.method("norm", texts=True)
def norm(trace, target, options):
    """S_i = ||dy_t / dh_i|| of the states h that enter block ``start_layer``."""
    _, G = trace.entering(target, options.start_layer)
    return torch.linalg.vector_norm(G, dim=-1)


def main() -> None:
    parser = Parser("python -m benchmarks.decoding", __doc__)
    parser.add_argument("--run", type=Path, required=True, help="a BERT on texts with rationales")
    parser.add_argument("--layers", nargs="+", type=int, help="default: all but the last")
    parser.add_argument("--limit", type=int, default=200, help="test texts")
    parser.add_argument("--output", type=Path, default=Path("runs/decoding"))
    chosen = parser.parse_args()
    config = load_classifier(find_checkpoint(chosen.run)).backbone.config
    layers = chosen.layers or range(1, config.num_hidden_layers)
    for layer in (0, *layers):
        variant(f"norm_{layer}", "norm", start_layer=layer)
    for layer in layers:
        variant(f"decoded_{layer}", "decoded_saliency", start_layer=layer)
    methods = ["norm_0", *(f"{name}_{layer}" for name in ("decoded", "norm") for layer in layers)]
    methods += ["transformer_attribution", "random", "constant"]
    runs = {chosen.run.name: chosen.run}
    found = scored(runs, "rationales", methods, "norm_0", chosen.limit, chosen.output)
    print_table("rationales", found, "norm_0", chosen.limit, SHOWN)


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    main()
