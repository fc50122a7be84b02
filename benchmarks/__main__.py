"""Everything that is said about speed, measured: python -m benchmarks

python -m benchmarks training explain --models deit_tiny vit_base --batches 1 8 --rounds 5
python -m benchmarks throughput --batches 1 16 64 256    (meant for a GPU)

Ratios are medians over rounds in which what is compared takes turns, with their quartiles.
"""

from __future__ import annotations

import argparse
import logging
import platform
import warnings

import torch

from benchmarks import explanations, models, peers, throughput, training

SECTIONS = ("training", "explain", "growth", "tracker", "peers", "throughput")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--models", nargs="+", choices=models.NAMES, default=models.NAMES)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-memory", action="store_true")
    chosen = parser.parse_args()
    for section in chosen.sections:
        if section not in SECTIONS:
            parser.error(f"{section}; accepted: {', '.join(SECTIONS)}")
    sections = chosen.sections or SECTIONS

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__}, {models.DEVICE}, {platform.machine()}, {threads} threads")
    if "training" in sections:
        training.steps(chosen.rounds)
    if "explain" in sections:
        explanations.by_method(
            list(chosen.models), chosen.batches, chosen.rounds, not chosen.no_memory
        )
    if "growth" in sections:
        explanations.growth(chosen.rounds)
    if "tracker" in sections:
        training.tracker()
    if "peers" in sections:
        peers.peers(8, chosen.rounds)
    if "throughput" in sections:
        throughput.throughput("vit_base", chosen.batches, chosen.rounds)


if __name__ == "__main__":
    main()
