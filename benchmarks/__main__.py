"""Everything that is said about speed, measured, in one table: python -m benchmarks

python -m benchmarks training explain --models deit_tiny vit_base --batches 1 8 --rounds 5
python -m benchmarks guidance --samples 4 16 --rounds 3
python -m benchmarks throughput --batches 1 16 64 256    (meant for a GPU)

Ratios are medians over rounds in which what is compared takes turns, with their quartiles. A
section of the table is printed as soon as it has been measured; all of them take hours.
"""

from __future__ import annotations

import argparse
import logging
import platform
import sys
import warnings

import torch

from benchmarks import explanations, guidance, models, peers, precision, throughput, training
from benchmarks.table import Table
from lightning_modules.utils.cli import Parser

SECTIONS = (
    "training",
    "explain",
    "growth",
    "tracker",
    "guidance",
    "precision",
    "peers",
    "throughput",
)


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; accepted: a whole number, 1 or more")
    return int(text)


OPTIONS = {  # what an argument is, what is measured by default, in which sections
    "models": (str, models.NAMES, ("explain",)),
    "methods": (str, (*models.METHODS, *models.OF_TEXTS), ("explain",)),
    "batches": (count, (1, 8, 32), ("explain", "throughput")),
    "samples": (count, (1, 4, 8, 16), ("guidance",)),
}


def parse() -> argparse.Namespace:
    parser = Parser("python -m benchmarks", __doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--rounds", type=count, default=5, help="timed runs of each (default: 5)")
    for option, (kind, default, of) in OPTIONS.items():
        parser.add_argument(
            f"--{option}",
            nargs="+",
            metavar=option.upper(),
            type=kind,
            choices=default if kind is str else None,
            help=f"of {' and '.join(of)}: {', '.join(map(str, default))} (default: all of these)",
        )
    chosen = parser.parse_args()
    for section in chosen.sections:
        if section not in SECTIONS:
            parser.error(f"section {section!r}; accepted: {', '.join(SECTIONS)}")
    chosen.sections = chosen.sections or SECTIONS
    for option, (_, default, of) in OPTIONS.items():
        if getattr(chosen, option) is None:
            setattr(chosen, option, default)
        elif not set(of) & set(chosen.sections):
            parser.error(f"--{option} is of {' and '.join(of)}, which is not measured here")
    return chosen


def measure(chosen: argparse.Namespace) -> None:
    table, sections = Table(), chosen.sections
    if "training" in sections:
        training.steps(table, chosen.rounds)
    if "explain" in sections:
        explanations.by_method(table, chosen.models, chosen.methods, chosen.batches, chosen.rounds)
    if "growth" in sections:
        explanations.growth(table, chosen.rounds)
    if "tracker" in sections:
        training.tracker(table, chosen.rounds)
    if "guidance" in sections:
        guidance.guided_steps(table, chosen.rounds, chosen.samples)
    if "precision" in sections:
        precision.precision(table)
    if "peers" in sections:
        peers.peers(table, 8, chosen.rounds)
    if "throughput" in sections:
        throughput.throughput(table, "vit_base", chosen.batches, chosen.rounds)


def main() -> None:
    chosen = parse()
    device = torch.cuda.get_device_name() if models.DEVICE == "cuda" else platform.machine()
    capability = torch.backends.cpu.get_cpu_capability()
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__}, {device}, {capability}, {threads} threads\n")
    try:
        measure(chosen)
    except KeyboardInterrupt:
        print("python -m benchmarks: stopped; what is not in the table is lost", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    main()
