"""The model card of an exported classifier: what a stranger should know of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from huggingface_hub import ModelCardData
from omegaconf import OmegaConf

from lightning_modules.export.base import Export
from lightning_modules.export.run import Run
from lightning_modules.modalities.texts.draw import escape

PICTURES = "explanations"  # the folder of the pictures, as in a run
FIGURES = ("precision", "recall", "f1")
OF_CLASS = "test_class_"  # metrics of single classes, which have a table of their own
LISTED = 20  # classes in the first paragraph


def model_card(export: Export, run: Run, place: str) -> str:
    """The text of ``README.md``.

    Args:
        export: the classifier in its format.
        run: that it is of.
        place: what the commands call the folder.
    """
    data = ModelCardData(
        library_name=export.library,
        pipeline_tag=export.pipeline,
        tags=["relprop", export.classifier.task.name],
    )
    sections = [
        f"---\n{data.to_yaml().strip()}\n---",
        f"# {escape(run.name)}",
        introduction(export),
        f"## Use\n\n{how_to_use(export, place)}",
        training(run),
        metrics(run),
        classes(run),
        explanations(run),
        "## Licence\n\nNone is given: who publishes the model chooses one, as `license:` above.",
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def introduction(export: Export) -> str:
    names = export.classifier.hparams.class_names
    listed = ", ".join(map(escape, names[:LISTED])) + ", …" * (len(names) > LISTED)
    kind, task = escape(export.classifier.kind), escape(export.classifier.task.name)
    thing = "outputs" if len(names) > 1 else "output"
    return (
        f"A model of the kind {kind} ({escape(type(export.backbone).__name__)}) for the task "
        f"{task}. Its {len(names):,} {thing}: {listed}."
    )


def how_to_use(export: Export, place: str) -> str:
    told = [fenced(export.usage(place), "python")]
    if export.transforms() and export.name == "hf":
        told.append(
            "Pictures are prepared by timm's transforms, as in evaluation: "
            "`pip install transformers timm`."
        )
    thresholds = getattr(export.classifier.task, "thresholds", None)
    if thresholds is not None and bool((thresholds != 0.5).any()):
        same = thresholds[:1] if bool((thresholds == thresholds[0]).all()) else thresholds
        listed = ", ".join(f"{x:g}" for x in same.tolist())
        told.append(f"A label counts as found above a probability of {listed} (`model.threshold`).")
    if export.reads_texts:
        most, overlap = (export.input_config.get(x) for x in ("max_length", "overlap"))
        told.append(f"The model reads {most} tokens of a text.")
        if overlap is not None:
            told.append(
                "In training and in its test longer texts were cut into windows that share "
                f"{overlap} tokens, and the logits of a text are the mean of its windows'."
            )
    return "\n\n".join(told)


def training(run: Run) -> str:
    if not run.options:
        return ""
    return f"## Training\n\n{fenced(OmegaConf.to_yaml(run.options), 'yaml')}"


def metrics(run: Run) -> str:
    if not run.metrics:
        return ""
    shown = {x: value for x, value in run.metrics.items() if not (run.classes and OF_CLASS in x)}
    rows = [(escape(name), f"{value:.4f}") for name, value in sorted(shown.items())]
    return f"## Metrics\n\n{table(('metric', 'value'), rows)}"


def classes(run: Run) -> str:
    """Precision, recall and F1 of each class, as in ``classes.csv``."""
    if not run.classes:
        return ""
    rows = [
        (
            escape(row["name"]),
            *(f"{float(row[figure]):.3f}" if row[figure] else "-" for figure in FIGURES),
            row["samples"],
        )
        for row in run.classes
    ]
    return f"## Classes\n\n{table(('class', *FIGURES, 'samples'), rows)}"


def explanations(run: Run) -> str:
    if not run.pictures:
        return ""
    shown = [
        f"![{escape(path.stem)}]({PICTURES}/{quote(path.name, safe='=')})" for path in run.pictures
    ]
    text = "Relevance behind decisions for samples of the validation data, in the last epoch."
    return "\n\n".join(["## Explanations", text, *shown])


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the cells are escaped already."""
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fenced(text: str, language: str) -> str:
    """A block of code, whatever backticks the text has."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def write_card(export: Export, run: Run, place: str, folder: Path) -> None:
    """Write ``README.md``, and the pictures that it shows."""
    text = model_card(export, run, place)
    (folder / "README.md").write_text(text, encoding="utf-8", newline="\n")
    if run.pictures:
        (folder / PICTURES).mkdir()
    for path in run.pictures:
        (folder / PICTURES / path.name).write_bytes(path.read_bytes())
