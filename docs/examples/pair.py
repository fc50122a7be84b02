"""Why does a vision-language model find that a caption fits a picture?

A small CLIP learns which captions ("a red three") name one of the two digits of a scene. Draws
``docs/images/pair.png`` and prints the numbers of ``docs/engine.md``.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from panels import IMAGES, ZOOM, panel, save
from scenes import COLORS, DIGITS, SCENE, WORDS, Scenes, ids, scenes, share, train
from torch import Tensor, nn

import relprop

TEXTS = [f"[start] a {color} {digit} [end]" for color in COLORS for digit in DIGITS]
CAPTIONS = torch.stack([ids(text) for text in TEXTS])


def clip() -> nn.Module:
    common = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    common |= {"intermediate_size": 128, "initializer_factor": 2.5}
    text = {"vocab_size": len(WORDS), "max_position_embeddings": CAPTIONS.shape[1]}
    text |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    vision = {"image_size": SCENE, "patch_size": 4}
    config = transformers.CLIPConfig(
        text_config=common | text, vision_config=common | vision, projection_dim=64
    )
    return transformers.CLIPModel(config)


def fitted(steps: int) -> nn.Module:
    """A CLIP trained with the loss of SigLIP, as several captions fit a scene."""
    torch.manual_seed(0)
    model = clip()
    model.bias = nn.Parameter(torch.tensor(-3.0))

    def loss(batch: Scenes) -> Tensor:
        logits = model(input_ids=CAPTIONS, pixel_values=batch.pixels).logits_per_image
        fits = torch.zeros_like(logits).scatter_(1, captions(batch), 1.0)
        return F.binary_cross_entropy_with_logits(logits + model.bias, fits)

    train(model, loss, steps)
    return model


def captions(scenes: Scenes) -> Tensor:
    """The numbers of the captions of the first and the second digit, [B, 2]."""
    return scenes.colors * len(DIGITS) + scenes.digits


def explain(model: nn.Module, pixels: Tensor, chosen: Tensor, **options) -> dict:
    """Of each scene with one caption: the map of the picture, and that of the words."""
    inputs = {"pixel_values": pixels, "input_ids": CAPTIONS[chosen]}
    pairs = torch.arange(len(pixels))
    return relprop.explain(
        model, inputs, pairs, "attnlrp", output=lambda o: o.logits_per_image, **options
    ).sources


def measure(model: nn.Module, test: Scenes) -> None:
    with torch.no_grad():
        logits = model(input_ids=CAPTIONS, pixel_values=test.pixels).logits_per_image
    best, named = logits.topk(2).indices.sort(1).values, captions(test).sort(1).values
    right = (best == named).all(1).float().mean().item()
    print(f"the two best captions of {len(CAPTIONS)} are the right ones: {100 * right:.0f}%")
    first, second = captions(test).unbind(1)
    mixed = test.colors[:, 0] * len(DIGITS) + test.digits[:, 1]  # fits neither digit
    for name, chosen in {"first": first, "second": second, "mixed": mixed}.items():
        sources = explain(model, test.pixels, chosen)
        maps = sources["pixel_values"].heatmap(SCENE)
        shares = [f"{share(maps, test.boxes[:, i]):.0f}%" for i in range(2)]
        words = sources["input_ids"].relevance.clamp(min=0)
        words = (100 * words / words.sum(1, keepdim=True).clamp(min=1e-30)).mean(0)
        print(f"{name}: on the digits {shares}; on the words {words.round().int().tolist()}")


def draw(model: nn.Module, test: Scenes, path: Path) -> None:
    rows = [[panel(pixels, "scene")] for pixels in test.pixels]
    for chosen in captions(test).unbind(1):
        found = explain(model, test.pixels, chosen)
        picture, text = found["pixel_values"], found["input_ids"]
        fits = (picture.logits.diagonal() + model.bias).sigmoid()
        maps = picture.heatmap(ZOOM * SCENE)
        for i, row in enumerate(rows):
            words = list(zip(TEXTS[chosen[i]].split(), text.relevance[i].tolist(), strict=True))
            title = f"p = {fits[i]:.2f}"
            row.append(panel(test.pixels[i], title, maps[i], words[1:-1], signed=True))
    save(rows, "Why does the caption fit?", path, signed=True)


def main(steps: int = 1000, images: Path = IMAGES) -> None:
    model = fitted(steps)
    measure(model, scenes(50, "test", seed=1))
    draw(model, scenes(3, "test", seed=2), images / "pair.png")


if __name__ == "__main__":
    main()
