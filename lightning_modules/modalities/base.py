"""What is known of a kind of input: how it is read, explained, drawn, watched and written."""

from __future__ import annotations

import base64
import io
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from PIL import Image
from rich.text import Text
from torch import Tensor
from torch.utils.data import Dataset

import relprop
from lightning_modules.data.texts.files import Line
from lightning_modules.modalities.drawing import (
    COLORMAP,
    DIVERGING,
    PANEL,
    SHOWN,
    Panel,
    explanation_grid,
    grid,
)
from lightning_modules.modalities.explained import Explained
from lightning_modules.modalities.maps import STEPS, table
from lightning_modules.tasks import Caption
from relprop.registry import Registry

if TYPE_CHECKING:
    from lightning_modules.callbacks.watch import Watch
    from lightning_modules.explanations.results import Result

MODALITIES: Registry[type[Modality]] = Registry("modality")


class Modality(ABC):
    """One source of a classifier's samples, as its picture, and all that is done with it.

    A subclass says how a sample's content is read from a file (:meth:`read`), becomes part of a
    batch (:meth:`batch`), comes out of it again (:meth:`content`) and is drawn with its relevance
    (:meth:`draw`). What else it may say has a default: what the data know about it
    (:meth:`scores`), and how it is shown on the page and in files (:class:`Part`).

    Attributes:
        called: what messages call one of it.
        endings: of its files, in lower case.
        axes: the names of the axes of a map in files.
        typed: a person may give it on the command line, by ``--text``.
        of_one_size: any of its contents can be in one batch.
        pipeline: what the hub calls a model that classifies it; None: it has no word for it.

    Args:
        source: its name in a batch and in the classifier's ``sources``.
        input_config: how it becomes an input, as plain values; of the data, and in checkpoints.
    """

    called: ClassVar[str]
    endings: ClassVar[tuple[str, ...]] = ()
    axes: ClassVar[tuple[str, ...]] = ("part",)
    typed: ClassVar[bool] = False
    of_one_size: bool = True
    pipeline: ClassVar[str | None] = None

    def __init__(self, source: str, input_config: Mapping[str, Any]) -> None:
        self.source, self.input_config = source, input_config

    # ------------------------------------------------------------------ from files to the model

    def within(self, path: Path) -> Sequence[Path | Line]:
        """What is an input each of a file: the file as a whole, or its lines.

        Raises:
            OSError, InputError: it cannot be read, where it has to be.
        """
        return [path]

    @abstractmethod
    def read(self, path: Path | Line) -> Any:
        """The content of what :meth:`within` gives of a file.

        Raises:
            OSError, InputError: it cannot be read, or there is nothing to explain.
        """

    def typed_text(self, text: Any, name: str) -> Any:
        """The content of a text, or of a pair of texts, that was typed, where ``typed`` is true.

        ``name`` is for errors.
        """
        raise NotImplementedError

    @abstractmethod
    def batch(self, contents: Sequence[Any]) -> dict[str, Any]:
        """What a batch has of these contents, on the CPU, without labels."""

    def explained(self, batch: Mapping[str, Any], explanation: relprop.Explanation) -> Explained:
        """An explanation of the engine's as one of this source."""
        return Explained.of(explanation)

    def blank(self, inputs: Tensor) -> Tensor | float:
        """Inputs that show nothing, from which integrated gradients begin: a black picture, say."""
        return 0.0

    # -------------------------------------------------------------------- objects, backgrounds

    def with_object(self, dataset: Dataset) -> list[int]:
        """Indices of the samples whose object is known, and with it what is background."""
        return []

    def on_backgrounds(
        self, batch: Mapping[str, Any], others: Mapping[str, Any]
    ) -> tuple[dict[str, Any], Tensor]:
        """A batch whose objects stand on the backgrounds of as many others.

        Of the others' own objects nothing is left. Beside ``batch`` itself for the others it is a
        control: the same is done to the own backgrounds. Samples of both are those of
        :meth:`with_object`. The second is where there is an object and a background, bool [B].
        """
        raise NotImplementedError

    # -------------------------------------------------------------------------------- drawing

    def content(self, batch: Mapping[str, Any], sample: int) -> Any:
        """The content of one sample of a batch, as :meth:`draw` takes it."""
        raise NotImplementedError

    def draw(self, content: Any, relevance: np.ndarray | None, signed: bool) -> np.ndarray:
        """A picture of the content, under its relevance if there is any: [H, W, 3], 0..1.

        Pictures of samples, of results and of the page are made of it, unless a subclass makes its
        own. ``relevance`` as of :meth:`Explained.arrays`; ``signed``: in diverging colours.
        """
        raise NotImplementedError

    def marks_shown(self, content: Any) -> str | None:
        """What :meth:`draw` marks in a content without a map, in a few words; None: nothing."""
        return None

    def part(
        self,
        content: Any,
        batch: Mapping[str, Any],
        sample: int,
        relevance: dict[str, np.ndarray],
    ) -> Part:
        """What is written of one input; ``relevance`` by method, [T, ...] of T classes."""
        return Part(self, content, relevance)

    # -------------------------------------------------------------------------- while training

    def scores(self, batch: Mapping[str, Any], *explained: Explained) -> dict[str, Tensor]:
        """How good the relevance is by what the data know about the true class, by name.

        ``explained``: one of the true classes, or several where a sample may have several.
        """
        return {}

    def marks(self, batch: Mapping[str, Any], target: Tensor) -> tuple[Tensor, Tensor]:
        """What of each sample the data mark as the reason for a class ``target`` [B].

        Returns:
            Marks [B, ...], True on it, and which samples have any, bool [B].
        """
        return target[:, None].bool(), torch.zeros_like(target, dtype=torch.bool)

    def beside(
        self, explained: Explained, marks: Tensor, drawn: bool
    ) -> list[tuple[Tensor, Tensor]]:
        """Relevance, and the share of each of its parts that is marked, both of one shape [b, ...].

        A pair is of one or more samples that have as many parts, in the order of the batch.
        ``drawn``: as it is drawn, which of a picture is pixel by pixel.
        """
        raise NotImplementedError

    def samples_picture(
        self,
        batch: Mapping[str, Any],
        explanations: Sequence[Explained],
        captions: Sequence[Sequence[Caption | None]],
        heading: str,
        signed: bool,
    ) -> np.ndarray:
        """Watched samples, each with its map in each explanation: [H, W, 3], uint8.

        ``captions``: what stands above the maps; a map without one is left out.
        """
        contents = [self.content(batch, i) for i in range(min(SHOWN, len(captions[0])))]
        drawn = [
            [self.draw(*pair, signed) for pair in zip(contents, x.arrays(), strict=False)]
            for x in explanations
        ]
        inputs = [self.draw(content, None, False) for content in contents]
        marked = map(self.marks_shown, contents)
        called = ["input" if x is None else f"input: {x}" for x in marked]
        return explanation_grid(inputs, drawn, captions, heading, signed, called)

    def samples_text(
        self,
        batch: Mapping[str, Any],
        explanations: Sequence[Explained],
        captions: Sequence[Sequence[Caption | None]],
        signed: bool,
    ) -> str | None:
        """The same as Markdown; None where text says nothing."""
        return None

    def watch_more(self, watch: Watch, count: int) -> None:
        """Add to a report what the data have beside the watched samples, as scenes of two."""
        return


@dataclass(frozen=True)
class Part:
    """One source of an explained input: its content, and why the model gives it each of T classes.

    Attributes:
        modality: of the source.
        content: as it was read.
        relevance: for each method [T, ...], float32, NaN where the model saw nothing.
    """

    modality: Modality
    content: Any
    relevance: dict[str, np.ndarray]

    shown: ClassVar[str] = "drawings"  # how the page shows it; its scripts know what else
    side: ClassVar[int] = PANEL  # of a drawing in its picture, pixels
    # Of a way that they do not know: JavaScript that enters it into MAKERS, and maybe into INPUTS.
    script: ClassVar[str] = ""

    @classmethod
    def colors(cls) -> dict[str, list[list[int]]]:
        """The colours of its maps on the page, from least to most."""
        return {"sequential": table(COLORMAP(STEPS)), "diverging": table(DIVERGING(STEPS))}

    @property
    def marks_shown(self) -> str | None:
        """What is marked on the input itself, in a few words; None: nothing."""
        return self.modality.marks_shown(self.content)

    def marked(self, explained: Explained, sample: int) -> Part:
        """The same with what else an explanation has of a sample of its batch."""
        return self

    def small(self) -> Part:
        """The same with less content, as the page and the files of numbers need it."""
        return self

    def picture(self, result: Result) -> np.ndarray:
        """A row a method and a column a class: [H, W, 3], uint8."""
        rows = []
        for method, maps in self.relevance.items():
            title = "\n".join(filter(None, [method, self.marks_shown]))
            row = [Panel(self.modality.draw(self.content, None, False), title)]
            for index, relevance in zip(result.classes, maps, strict=True):
                drawn = self.modality.draw(self.content, relevance, is_signed(method))
                row.append(Panel(drawn, result.question(index, "\n"), result.is_wrong(index)))
            rows.append(row)
        scales = sorted({is_signed(m) for m in self.relevance})
        return grid(rows, result.heading, (self.side, self.side), scales)

    def terminal_text(self, result: Result) -> Text | None:
        """What a terminal can show of it; None where that is nothing."""
        return None

    @property
    def kind(self) -> str:
        """What it is called in explanations.json."""
        return self.modality.called

    def json(self) -> dict[str, Any]:
        """What explanations.json has of it beside its relevance."""
        return {}

    def page(self) -> dict[str, Any]:
        """What the page has of it: here pictures, ready drawn, by method one a class."""

        def drawn(relevance: np.ndarray | None, signed: bool = False) -> str:
            return data_uri(self.modality.draw(self.content, relevance, signed))

        drawings = {
            method: [drawn(of_class, is_signed(method)) for of_class in maps]
            for method, maps in self.relevance.items()
        }
        marked = {"marked": self.marks_shown}
        return {"shown": self.shown, "input": drawn(None), "drawings": drawings} | marked

    def common(self) -> dict[str, Any]:
        """What the page has once for all inputs that have the same, by a name of its own.

        Scripts find it in ``data.common``.
        """
        return {}

    def glimpse(self) -> Image.Image | str:
        """What the page has of it before its card is loaded: a picture, or a text."""
        return as_picture(self.modality.draw(self.content, None, False))


def is_signed(method: str) -> bool:
    """True if a method's negative relevance speaks against the class."""
    return relprop.METHODS.find(method).signed


def as_picture(drawn: np.ndarray) -> Image.Image:
    """Of [H, W, 3] in 0..1."""
    return Image.fromarray((drawn.clip(0, 1) * 255).round().astype(np.uint8))


def data_uri(picture: np.ndarray | Image.Image, **options: Any) -> str:
    """A picture, [H, W, 3] in 0..1 or of Pillow's, as PNG or in the ``format`` of the options."""
    if isinstance(picture, np.ndarray):
        picture = as_picture(picture)
    options = {"format": "png"} | options
    file = io.BytesIO()
    picture.save(file, **options)
    encoded = base64.b64encode(file.getvalue()).decode("ascii")
    return f"data:image/{options['format'].lower()};base64,{encoded}"
