"""Ways to train a model, each from several seeds: rows as they are measured, and their table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import default_collate

import relprop
from benchmarks.arms_report import interval, spread
from benchmarks.kept_rows import KeptRows, Row, Rows, folder_name
from configs.schema import load_config
from lightning_modules.experiment import Ended, experiment
from lightning_modules.protocols import PROTOCOLS, evaluate, values_of
from lightning_modules.tasks import captions_of
from lightning_modules.utils.cli import Parser

CONFIG = Path(__file__).parents[1] / "configs" / "vit_digits.yaml"
SHOWN = 4  # scenes of a picture


def parsed(program: str, about: str | None, arms: Mapping[str, Any], output: str):
    """Arms, seeds, more options of the config, and the folder for the rows."""
    parser = Parser(program, about)
    parser.add_argument("--arms", nargs="+", choices=arms, default=list(arms))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path(output))
    parser.add_argument("--options", nargs="*", default=[], help="more of the config, key=value")
    return parser.parse_args()


def measured(
    chosen,
    arms: Mapping[str, Sequence[str]],
    figures: Callable[[Ended, Path], dict[str, float]],
    config: Path = CONFIG,
) -> Rows:
    """A row for each arm and seed, in OUTPUT/rows.jsonl; those that are there are not trained.

    Args:
        chosen: of :func:`parsed`.
        arms: options of the config by arm.
        figures: of a run, which may write into a folder of its own.
        config: what all arms have in common.
    """

    def of_run(key: Row) -> Row:
        arm, seed = key.values()
        folder = folder_of(chosen.output, arm, seed)
        given = [f"run_dir={folder}", f"seed={seed}", "tracker=null", "loggers={}"]
        ended = experiment(load_config(config, [*given, *arms[arm], *chosen.options]), None)
        return figures(ended, folder)

    wanted = [{"arm": arm, "seed": seed} for seed in chosen.seeds for arm in chosen.arms]
    kept = KeptRows(chosen.output / "rows.jsonl", chosen.options)
    return kept.of(wanted, of_run, "arms and seeds")


def folder_of(output: Path, arm: str, seed: int) -> Path:
    """That of a run."""
    return output / folder_name(arm, seed)


def accuracies(ended: Ended) -> dict[str, float]:
    """That of the test scenes, and that of validation in the epoch that it has chosen."""
    (best,) = (x for x in ended.trainer.checkpoint_callbacks if x.monitor)
    validation = float(best.best_model_score)
    return {"accuracy": ended.tested["test/accuracy"], "validation accuracy": validation}


def scored(ended: Ended, protocol: str, method: str, score: str) -> float:
    """A score of a method by a protocol, on all its samples."""
    of = PROTOCOLS[protocol](ended.model.eval(), ended.data)
    *_, progress = evaluate(of, [method], {})
    return values_of(progress.metrics[method])[score, None]


def draw(ended: Ended, path: Path, method: str) -> None:
    """Scenes of two digits, each with the map of a method for the class of each digit.

    Above them: the folder of the run.
    """
    module, data = ended.model.eval(), ended.data
    ((source, modality),) = module.sources.items()
    batch = default_collate([data.pairs_dataset[i] for i in range(SHOWN)])
    found = module.explain_sources(module.record(batch), batch, list(batch["labels"].T), method)
    explained = [of_class[source] for of_class in found]
    captions = captions_of(explained, ("why {}?",) * 2, module.task)
    heading = f"{path.parent.name}: {method}"
    signed = relprop.METHODS.find(method).signed
    picture = modality.samples_picture(batch, explained, captions, heading, signed)
    Image.fromarray(picture).save(path)


def join(paths: Sequence[Path], path: Path) -> None:
    """Pictures side by side, in one file."""
    pictures = [np.asarray(Image.open(x)) for x in paths]
    height = max(len(x) for x in pictures)
    pads = [((0, height - len(x)), (0, 0), (0, 0)) for x in pictures]
    padded = [np.pad(x, pad, constant_values=255) for x, pad in zip(pictures, pads, strict=True)]
    Image.fromarray(np.concatenate(padded, axis=1)).save(path)


def print_table(rows: Rows) -> None:
    """Means and standard deviations over the seeds, as Markdown."""
    names = list(dict.fromkeys(x for r in rows for x in r if x not in ("arm", "seed", "options")))
    print_row("arm", "seeds", *names)
    print_row(*["---"] * (2 + len(names)))
    for arm in dict.fromkeys(row["arm"] for row in rows):
        of_arm = [row for row in rows if row["arm"] == arm]
        values = [[row[name] for row in of_arm if row.get(name) is not None] for name in names]
        print_row(arm, len(of_arm), *(spread(x) if x else "" for x in values))


def print_differences(rows: Rows, pairs: Sequence[tuple[str, str]], figures: Sequence[str]) -> None:
    """Means of what an arm has less another, paired by seed, in points, with 95% intervals."""
    print()
    print_row("difference, points", *figures)
    print_row(*["---"] * (1 + len(figures)))
    of = {(row["arm"], row["seed"]): row for row in rows}
    for arm, other in pairs:
        seeds = sorted(seed for name, seed in of if name == arm and (other, seed) in of)
        less = [[100 * (of[arm, s][x] - of[other, s][x]) for s in seeds] for x in figures]
        if seeds:
            print_row(f"{arm}, less {other}", *map(interval, less))


def print_row(*cells: object) -> None:
    print("|", " | ".join(map(str, cells)), "|", flush=True)
