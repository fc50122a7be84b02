"""What pictures of relevance are made of: colours, panels in a grid, fonts."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lightning_modules.tasks import Caption
from lightning_modules.utils.names import printable

SHOWN = 6  # samples in a picture
# Both perceptually ordered, and readable when colour-blind.
COLORMAP = matplotlib.colormaps["inferno"]
DIVERGING = matplotlib.colormaps["RdBu_r"]  # of signed relevance: white at 0
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
WRONG = "#b00020"
# Of a grid, in pixels.
PANEL, TITLE, SPACE, MARGIN, HEADING, COLOR_BAR = 140, 36, 8, 10, 45, 95


def scale(heatmaps: Tensor, signed: bool = False) -> Tensor:
    """Min-max scale each map [..., H, W] to 0..1; a flat map becomes 0.

    A signed map is divided by its greatest magnitude, to -1..1, so that 0 stays 0.
    """
    if signed:
        most = heatmaps.abs().amax(dim=(-2, -1), keepdim=True)
        return torch.where(most > 0, heatmaps / most, 0)
    low, high = (f(heatmaps, dim=(-2, -1), keepdim=True) for f in (torch.amin, torch.amax))
    return torch.where(high > low, (heatmaps - low) / (high - low), 0)


def colors(scaled: Tensor, signed: bool = False) -> np.ndarray:
    """The colour of each value of :func:`scale`: [..., 3], 0..1."""
    values = scaled.float().cpu().numpy()
    return DIVERGING((values + 1) / 2)[..., :3] if signed else COLORMAP(values)[..., :3]


@dataclass(frozen=True)
class Panel:
    """One picture of a grid: an image [H, W, 3] in 0..1, and a line or two above it."""

    image: np.ndarray
    title: str
    wrong: bool = False  # the model is mistaken: the title is set apart


def grid(
    rows: Sequence[Sequence[Panel]],
    heading: str,
    size: tuple[int, int] = (PANEL, PANEL),
    scales: Sequence[bool] = (False,),
) -> np.ndarray:
    """Panels in rows under a heading, with colour bars: [H, W, 3], uint8.

    ``size``: width and height of a panel's picture. ``scales``: the colour bars, True for signed.
    """
    width = max(MARGIN + max(map(len, rows)) * (size[0] + SPACE) + COLOR_BAR, 420)
    height = max(HEADING + len(rows) * (TITLE + size[1] + SPACE), 190 * len(scales) + HEADING)
    picture = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(picture).text((MARGIN, 25), heading, "black", font(15), anchor="lm")
    for r, row in enumerate(rows):
        for c, panel in enumerate(row):
            left = MARGIN + c * (size[0] + SPACE)
            top = HEADING + r * (TITLE + size[1] + SPACE) + TITLE
            _place(picture, panel, left, top, size)
    top = HEADING + TITLE
    for signed in scales:
        length = min(250, (height - HEADING - TITLE) // len(scales) - 40)
        _color_bar(picture, width - COLOR_BAR + 15, top, length, signed)
        top += length + 40
    return np.asarray(picture)


@functools.cache
def font(size: int, face: str = "DejaVuSans") -> ImageFont.FreeTypeFont:
    """``size`` in pixels."""
    return ImageFont.truetype(FONTS / f"{face}.ttf", size)


def _place(picture: Image.Image, panel: Panel, left: int, top: int, size: tuple[int, int]) -> None:
    """A panel whose image has its corner at ``left``, ``top``, its title above."""
    image = Image.fromarray((panel.image.clip(0, 1) * 255).round().astype(np.uint8))
    image.thumbnail(size, Image.Resampling.LANCZOS)
    zoom = min(size[0] / image.width, size[1] / image.height)
    shown = [max(1, round(side * zoom)) for side in image.size]
    picture.paste(image.resize(shown, Image.Resampling.NEAREST), (left, top))
    lines, color = panel.title.split("\n"), WRONG if panel.wrong else "black"
    for above, line in enumerate(reversed(lines)):
        place = (left + size[0] / 2, top - 4 - 15 * above)
        ImageDraw.Draw(picture).text(place, fitting(line, size[0]), color, font(12), anchor="md")


def fitting(line: str, width: int) -> str:
    """A line of a title, cut off where it would be wider."""
    length = len(line)
    while length > 1 and font(12).getlength(line) > width:
        length -= 1
        line = line[: length - 1] + "…"
    return line


def _color_bar(picture: Image.Image, left: int, top: int, length: int, signed: bool) -> None:
    """What the colours mean."""
    values = torch.linspace(1, -1 if signed else 0, length)[:, None].expand(length, 12)
    bar = Image.fromarray((colors(values, signed) * 255).round().astype(np.uint8))
    picture.paste(bar, (left, top))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((left, top, left + 11, top + length - 1), outline="black")
    ticks = ("for", "0", "against") if signed else ("most", "least")
    for i, tick in enumerate(ticks):
        y = top + i * (length - 1) / (len(ticks) - 1)
        draw.text((left + 17, y), tick, "black", font(11), anchor="lm")
    label = Image.new("RGB", (length, 14), "white")
    ImageDraw.Draw(label).text(
        (length / 2, 7), "relevance in a map", "black", font(11), anchor="mm"
    )
    picture.paste(label.rotate(90, expand=True), (left + 62, top))


def short(name: str, length: int = 18) -> str:
    """A class name that fits over a picture: one printable line."""
    name = printable(name)
    return name if len(name) <= length else name[: length - 1] + "…"


def stack(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures [H, W, 3], uint8, one under another, the narrower ones filled up with white."""
    width = max(picture.shape[1] for picture in pictures)
    return np.concatenate(
        [
            np.pad(x, ((0, 0), (0, width - x.shape[1]), (0, 0)), constant_values=255)
            for x in pictures
        ]
    )


def explanation_grid(
    inputs: Sequence[np.ndarray],
    drawn: Sequence[Sequence[np.ndarray]],
    captions: Sequence[Sequence[Caption | None]],
    heading: str,
    signed: bool = False,
    called: Sequence[str] | None = None,
) -> np.ndarray:
    """One row a sample: its input, and its map in each explanation: [H, W, 3], uint8.

    Args:
        inputs: pictures of B samples, [h, w, 3], 0..1.
        drawn: for each explanation the pictures of its B maps.
        captions: for each explanation what stands above its maps; a map without one is left out.
        heading: a line above all.
        signed: the maps are drawn in diverging colours.
        called: what stands above each input; None: "input".
    """
    called = called or ["input"] * len(inputs)
    rows = []
    for i in range(min(SHOWN, len(inputs))):
        notes = [of_maps[i].note for of_maps in captions if of_maps[i] is not None]
        row = [Panel(inputs[i], "\n".join([called[i], *filter(None, notes)]))]
        for maps, of_maps in zip(drawn, captions, strict=True):
            if (caption := of_maps[i]) is not None:
                row.append(Panel(maps[i], f"{caption.asked}\n{caption.number}", caption.wrong))
        rows.append(row)
    return grid(rows, heading, scales=[signed])
