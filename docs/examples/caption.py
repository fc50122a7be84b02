"""Which pixels and which words speak for the next word of a caption?

A ViT with a BERT as its decoder learns captions of scenes: "a red three and a blue seven". Draws
``docs/images/caption.png`` and prints the numbers of ``docs/engine.md``.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from panels import IMAGES, ZOOM, panel, save
from scenes import SCENE, WORDS, Scenes, ids, scenes, share, train
from torch import Tensor, nn

import relprop


def captioner() -> nn.Module:
    common = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    common |= {"intermediate_size": 128, "initializer_range": 0.05}
    common |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    encoder = transformers.ViTConfig(image_size=SCENE, patch_size=4, **common)
    decoder = transformers.BertConfig(
        vocab_size=len(WORDS), max_position_embeddings=8, is_decoder=True,
        add_cross_attention=True, **common,
    )  # fmt: skip
    config = transformers.VisionEncoderDecoderConfig(
        encoder=encoder.to_dict(), decoder=decoder.to_dict()
    )
    return transformers.VisionEncoderDecoderModel(config)


def fitted(steps: int) -> nn.Module:
    torch.manual_seed(0)
    model = captioner()

    def loss(batch: Scenes) -> Tensor:
        words = captions(batch)
        logits = model(pixel_values=batch.pixels, decoder_input_ids=words[:, :-1]).logits
        return F.cross_entropy(logits.flatten(0, 1), words[:, 1:].flatten())

    train(model, loss, steps)
    return model


def captions(scenes: Scenes) -> Tensor:
    """``[start] a COLOUR DIGIT and a COLOUR DIGIT``, [B, 8]."""
    count = len(scenes.pixels)
    start, between = (ids(text).expand(count, -1) for text in ("[start] a", "and a"))
    return torch.cat([start, scenes.words(0), between, scenes.words(1)], dim=1)


def beginnings(scenes: Scenes, digit: int) -> tuple[Tensor, Tensor]:
    """``[start] a COLOUR`` of one of the digits, [B, 3], and the word that is next, [B]."""
    color, name = scenes.words(digit).unbind(1)
    return torch.cat([ids("[start] a").expand(len(color), -1), color[:, None]], dim=1), name


def explain(model: nn.Module, pixels: Tensor, words: Tensor, following: Tensor) -> dict:
    """Of each scene with the beginning of a caption: the map of the picture and of the words."""
    inputs = {"decoder_input_ids": words, "pixel_values": pixels}
    return relprop.explain(model, inputs, following, "attnlrp", position=-1).sources


def measure(model: nn.Module, test: Scenes) -> None:
    for digit, name in enumerate(("first", "second")):
        words, following = beginnings(test, digit)
        found = explain(model, test.pixels, words, following)
        picture, text = found["pixel_values"], found["decoder_input_ids"]
        right = (picture.logits.argmax(1) == following).float().mean().item()
        maps = picture.heatmap(SCENE)
        shares = [f"{share(maps, test.boxes[:, i]):.0f}%" for i in range(2)]
        print(f"{name}: {100 * right:.0f}% right; on the digits {shares}")
        parts = text.relevance.clamp(min=0)
        parts = (100 * parts / parts.sum(1, keepdim=True).clamp(min=1e-30)).mean(0)
        print(f"on the words {parts.round().int().tolist()}")


def draw(model: nn.Module, test: Scenes, path: Path) -> None:
    rows = [[panel(pixels, "scene")] for pixels in test.pixels]
    for digit in range(2):
        words, following = beginnings(test, digit)
        found = explain(model, test.pixels, words, following)
        picture, text = found["pixel_values"], found["decoder_input_ids"]
        maps, likely = picture.heatmap(ZOOM * SCENE), picture.logits.softmax(1)
        for i, row in enumerate(rows):
            said = [WORDS[word] for word in words[i]]
            marks = list(zip(said, text.relevance[i].tolist(), strict=True))[1:]
            title = f"next: {WORDS[following[i]]}, p = {likely[i, following[i]]:.2f}"
            row.append(panel(test.pixels[i], title, maps[i], marks, signed=True))
    save(rows, "Why is this the next word?", path, signed=True)


def main(steps: int = 900, images: Path = IMAGES) -> None:
    model = fitted(steps)
    measure(model, scenes(50, "test", seed=1))
    draw(model, scenes(3, "test", seed=2), images / "caption.png")


if __name__ == "__main__":
    main()
