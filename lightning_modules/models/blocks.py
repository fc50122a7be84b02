"""The blocks of a backbone, found by the names of its parts, which libraries write much alike."""

from __future__ import annotations

import re

from torch import nn

# A block, or a block of a stage; what leads from stage to stage is a block of its own.
BLOCK = re.compile(
    r"(?:^|\.)(?:stages?|layers?|blocks?)\d*\.\d+(?:\.(?:layers?|blocks?)\.\d+)?(?=\.)"
)


def levels_of(backbone: nn.Module) -> dict[str, int]:
    """How far up each parameter is: 0 below the first block, the head above the last one.

    Blocks count in the order in which the model has them, whatever stage they are of.
    """
    levels, blocks = {}, {}
    for name, _ in backbone.named_parameters():
        block = BLOCK.search(name)
        if block:
            levels[name] = blocks.setdefault(block[0], len(blocks) + 1)
        else:
            levels[name] = -1 if blocks else 0
    return {name: len(blocks) + 1 if level < 0 else level for name, level in levels.items()}


def layers_in_blocks(backbone: nn.Module) -> dict[str, str]:
    """Linear layers and convolutions of the blocks: the name within the block, by the full name.

    Where blocks are in stages, what leads from stage to stage is of no block.
    """
    found = {
        name: match
        for name, part in backbone.named_modules()
        if isinstance(part, nn.Linear | nn.Conv2d) and (match := BLOCK.search(name))
    }
    in_stages = any(depth(match) > 1 for match in found.values())
    return {
        name: name[match.end() + 1 :]
        for name, match in found.items()
        if depth(match) > 1 or not in_stages
    }


def depth(block: re.Match) -> int:
    """1 for a block, 2 for a block of a stage."""
    return len(re.findall(r"\.\d+", block[0]))
