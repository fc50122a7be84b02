"""docs/guidance.md says what the code does, and its code runs."""

import inspect
import re
from pathlib import Path

import torch

import relprop
from lightning_modules.guidance import Guidance

DOCUMENT = Path("docs/guidance.md").read_text()


def table(heading: str) -> list[list[str]]:
    """The rows of the table of a section, without those of its head."""
    section = DOCUMENT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_each_option_stands_in_the_table_with_its_default():
    options = inspect.signature(Guidance).parameters.values()
    written = {None: "null"}
    expected = {x.name: written.get(x.default, str(x.default)) for x in options}
    assert {name: default for name, default, _ in table("Options")} == expected


def test_each_loss_stands_in_the_table():
    assert [row[0] for row in table("Losses")] == list(relprop.GUIDANCE_LOSSES)


def test_the_training_loop_puts_relevance_on_the_object(tiny_vit, images):
    """30 steps on three samples, whose object is the left half."""
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    model, labels = tiny_vit(), torch.tensor([0, 1, 2])
    masks = torch.zeros(3, 32, 32)
    masks[:, :, :16] = 1

    def share() -> float:
        maps = relprop.explain(model, images, labels, "generic_attention").relevance
        maps = maps.unflatten(-1, (4, 4))
        return (maps[..., :2].sum() / maps.sum()).item()

    before = share()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    given = {"model": model, "optimizer": optimizer, "loader": [(images, labels, masks)] * 30}
    exec(code, given)  # noqa: S102
    assert share() > (1 + before) / 2
