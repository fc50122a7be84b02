"""Why does a query of DETR find this class?

A small DETR learns to find the two digits of a scene. Draws ``docs/images/query.png`` and prints
the numbers of ``docs/engine.md``.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from panels import IMAGES, ZOOM, panel, save
from scenes import CELLS, DIGITS, SCENE, TILE, Scenes, scenes, share, train
from torch import Tensor, nn

import relprop

BACKBONE = transformers.ResNetConfig(
    embedding_size=32, hidden_sizes=[32, 64], depths=[1, 1], out_features=["stage2"],
    layer_type="basic",
)  # fmt: skip


def pretrained(steps: int) -> nn.Module:
    """A ResNet that has learnt which digit, if any, is in each cell of a scene."""
    backbone, head = transformers.AutoBackbone.from_config(BACKBONE), nn.Conv2d(64, 11, 1)

    def loss(batch: Scenes) -> Tensor:
        cells = torch.full((len(batch.pixels), CELLS, CELLS), len(DIGITS))
        rows, columns = (batch.corners // TILE).unbind(-1)
        cells[torch.arange(len(cells))[:, None], rows, columns] = batch.digits
        return F.cross_entropy(head(backbone(batch.pixels).feature_maps[-1]), cells)

    train(nn.ModuleList([backbone, head]), loss, steps)
    return backbone


def detr() -> nn.Module:
    config = transformers.DetrConfig(
        backbone_config=BACKBONE, use_timm_backbone=False, d_model=64, encoder_layers=1,
        decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=128, decoder_ffn_dim=128, num_queries=6, num_labels=len(DIGITS),
        dropout=0.0, init_std=0.05,
    )  # fmt: skip
    model = transformers.DetrForObjectDetection(config)
    nn.init.xavier_uniform_(model.model.input_projection.weight)
    nn.init.normal_(model.model.query_position_embeddings.weight)
    return model


def fitted(steps: int) -> nn.Module:
    torch.manual_seed(0)
    model = detr()
    model.model.backbone.model.load_state_dict(
        pretrained(1 + steps // 5).state_dict(), strict=False
    )

    def loss(batch: Scenes) -> Tensor:
        return model(pixel_values=batch.pixels, labels=labels(batch)).loss

    train(model, loss, steps)
    return model


def labels(scenes: Scenes) -> list[dict]:
    """Classes and boxes (centre x, centre y, width, height; 0 to 1) as DETR wants them."""
    centres = (scenes.corners.flip(-1) + TILE / 2) / SCENE
    boxes = torch.cat([centres, torch.full_like(centres, TILE / SCENE)], dim=-1)
    return [
        {"class_labels": classes, "boxes": of_scene}
        for classes, of_scene in zip(scenes.digits, boxes, strict=True)
    ]


def explain(model: nn.Module, pixels: Tensor, queries: Tensor, classes: Tensor):
    """Why each scene's query, of ``queries`` [B], finds the class."""
    rows = torch.arange(len(pixels))
    return relprop.explain(
        model, {"pixel_values": pixels}, classes, "attnlrp",
        output=lambda o: o.logits[rows, queries],
    )  # fmt: skip


def found(model: nn.Module, scenes: Scenes) -> tuple[Tensor, Tensor]:
    """The query that is surest of each digit, and what it says is there, [B, 2]."""
    with torch.no_grad():
        scores = model(pixel_values=scenes.pixels).logits.softmax(-1)  # [B, queries, 11]
    rows = torch.arange(len(scores))[:, None]
    queries = scores.transpose(1, 2)[rows, scenes.digits].argmax(-1)
    return queries, scores[rows, queries].argmax(-1)


def measure(model: nn.Module, test: Scenes) -> None:
    queries, said = found(model, test)
    print(f"classes that are right: {100 * (said == test.digits).float().mean().item():.0f}%")
    with torch.no_grad():
        boxes = model(pixel_values=test.pixels).pred_boxes
    boxes = boxes[torch.arange(len(boxes))[:, None], queries]
    away = SCENE * (boxes - torch.stack([x["boxes"] for x in labels(test)])).abs().amax(-1)
    print(f"boxes within 2 pixels: {100 * (away < 2).float().mean().item():.0f}%")
    for digit, name in enumerate(("first", "second")):
        chosen = queries[:, digit], test.digits[:, digit]
        maps = explain(model, test.pixels, *chosen).heatmap(SCENE)
        shares = [f"{share(maps, test.boxes[:, i]):.0f}%" for i in range(2)]
        print(f"{name}: on the digits {shares}")


def draw(model: nn.Module, test: Scenes, path: Path) -> None:
    rows = [[panel(pixels, "scene")] for pixels in test.pixels]
    queries, _ = found(model, test)
    for digit in range(2):
        classes = test.digits[:, digit]
        explanation = explain(model, test.pixels, queries[:, digit], classes)
        maps, likely = explanation.heatmap(ZOOM * SCENE), explanation.logits.softmax(1)
        for i, row in enumerate(rows):
            title = f"query {queries[i, digit]}: {DIGITS[classes[i]]}"
            title += f"\np = {likely[i, classes[i]]:.2f}"
            row.append(panel(test.pixels[i], title, maps[i], signed=True))
    save(rows, "Why does the query find this class?", path, signed=True)


def main(steps: int = 900, images: Path = IMAGES) -> None:
    model = fitted(steps)
    measure(model, scenes(50, "test", seed=1))
    draw(model, scenes(3, "test", seed=2), images / "query.png")


if __name__ == "__main__":
    main()
