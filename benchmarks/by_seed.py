"""Ways to train a model, each from several seeds: rows as they are measured, and their table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import default_collate

import relprop
from benchmarks.arms_report import interval, spread
from benchmarks.measure import progress
from configs.schema import load_config
from lightning_modules.experiment import Ended, experiment
from lightning_modules.protocols import PROTOCOLS, evaluate, values_of
from lightning_modules.tasks import captions_of
from lightning_modules.utils.cli import Parser

CONFIG = Path(__file__).parents[1] / "configs" / "vit_digits.yaml"
SHOWN = 4  # scenes of a picture
Rows = list[dict[str, Any]]


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
        config: what the options are of.
    """
    chosen.output.mkdir(parents=True, exist_ok=True)
    path = chosen.output / "rows.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    if any(row["options"] != chosen.options for row in rows):
        raise SystemExit(f"{path} is of other --options; accepted: another --output")
    done = {(row["arm"], row["seed"]) for row in rows}
    wanted = [(arm, seed) for seed in chosen.seeds for arm in chosen.arms]
    for arm, seed in progress([x for x in wanted if x not in done], "arms and seeds"):
        folder = folder_of(chosen.output, arm, seed)
        given = [f"run_dir={folder}", f"seed={seed}", "tracker=null", "loggers={}"]
        ended = experiment(load_config(config, [*given, *arms[arm], *chosen.options]), None)
        row = {"arm": arm, "seed": seed, "options": chosen.options} | figures(ended, folder)
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        rows.append(row)
    return [row for row in rows if (row["arm"], row["seed"]) in wanted]


def folder_of(output: Path, arm: str, seed: int) -> Path:
    """That of a run."""
    return output / f"{arm}-{seed}".replace(" + ", "-").replace(", ", "-").replace(" ", "-")


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


def print_table(rows: Rows, base: str, compared: str) -> None:
    """Means and standard deviations over the seeds, as Markdown.

    The last column is ``compared``, a column, less that of the arm ``base``, paired by seed, in
    points.
    """
    names = list(dict.fromkeys(x for r in rows for x in r if x not in ("arm", "seed", "options")))
    headings = ["arm", "seeds", *names, f"{compared} less {base}, points"]
    print("|", " | ".join(headings), "|")
    print("| --- " * len(headings) + "|")
    of_base = {row["seed"]: row[compared] for row in rows if row["arm"] == base}
    for arm in dict.fromkeys(row["arm"] for row in rows):
        of_arm = [row for row in rows if row["arm"] == arm]
        values = [[row[name] for row in of_arm if row.get(name) is not None] for name in names]
        cells = [spread(x) if x else "" for x in values]
        less = [100 * (r[compared] - of_base[r["seed"]]) for r in of_arm if r["seed"] in of_base]
        cells.append("" if arm == base else interval(less) if less else "")
        print("|", " | ".join([arm, str(len(of_arm)), *cells]), "|", flush=True)
