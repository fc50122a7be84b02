"""TransFG: the published implementation's arrays, and the options of the ViT classifier."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image, ImageColor
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

import relprop
from lightning_modules import ViTClassifier
from lightning_modules.export import EXPORTS
from lightning_modules.modalities.drawing import PANEL
from lightning_modules.modalities.images.draw import OUTLINE
from lightning_modules.modalities.images.part import ImagePart
from lightning_modules.models.parts import (
    PartBlocks,
    attended,
    attention_map,
    boxes_of,
    contrastive_loss,
    select_in_last_block,
    select_parts,
)
from lightning_modules.models.vit_backbone import create_backbone
from lightning_modules.tasks import captions_of
from lightning_modules.utils.errors import InputError
from tests.helpers.products import METHODS, blocks_of, chain

FILE = Path(__file__).parents[1] / "reference" / "seeds" / "transfg.npz"
SIZES = {"patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}
INPUT = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
NAMES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    with np.load(FILE) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


@pytest.fixture(scope="module")
def published(reference) -> VisionTransformer:
    """timm's model, with the stored weights."""
    w = {x.removeprefix("w_"): value for x, value in reference.items() if x.startswith("w_")}
    embed, encoder = "transformer_embeddings", "transformer_encoder"
    state = {
        "cls_token": w[f"{embed}_cls_token"],
        "pos_embed": w[f"{embed}_position_embeddings"],
    }
    parts = {"weight", "bias"}
    for x in parts:
        state[f"patch_embed.proj.{x}"] = w[f"{embed}_patch_embeddings_{x}"]
        state[f"norm.{x}"], state[f"head.{x}"] = w[f"{encoder}_part_norm_{x}"], w[f"part_head_{x}"]
        for i, layer in enumerate(("layer_0", "layer_1", "part_layer")):
            of, block = f"{encoder}_{layer}", f"blocks.{i}"
            qkv = [w[f"{of}_attn_{of_three}_{x}"] for of_three in ("query", "key", "value")]
            state[f"{block}.attn.qkv.{x}"] = torch.cat(qkv)
            state[f"{block}.attn.proj.{x}"] = w[f"{of}_attn_out_{x}"]
            state[f"{block}.norm1.{x}"] = w[f"{of}_attention_norm_{x}"]
            state[f"{block}.norm2.{x}"] = w[f"{of}_ffn_norm_{x}"]
            for fc in ("fc1", "fc2"):
                state[f"{block}.mlp.{fc}.{x}"] = w[f"{of}_ffn_{fc}_{x}"]
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 4}
    model = VisionTransformer(**sizes, mlp_ratio=2, num_classes=5).double()
    model.load_state_dict(state)
    select_in_last_block(model)
    return model.eval()


def same(found: Tensor, expected: Tensor) -> None:
    assert expected.ndim == 0 or expected.std() > 0
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


# ------------------------------------------------------------------------- the published arrays


def test_parts_of_a_stack_of_maps_are_those_published(reference):
    row = attended(reference[name] for name in ("A2", "A1", "A0"))
    full = reference["A2"] @ reference["A1"] @ reference["A0"]
    same(row, full[:, :, 0])
    assert torch.equal(select_parts(row), reference["part_index"])
    same(row[..., 1:].amax(dim=-1), reference["part_value"])


@pytest.mark.parametrize("close", ["", "_close"])
def test_the_contrastive_loss_is_the_one_published(reference, close):
    found = contrastive_loss(reference[f"features{close}"], reference["labels"])
    same(found, reference[f"contrastive_loss{close}"])


def test_a_model_is_the_one_published_from_its_maps_to_the_loss(reference, published):
    entered: dict[str, list[Tensor]] = {"blocks": [], "last": []}
    *blocks, last = published.blocks
    for block in blocks:
        block.register_forward_pre_hook(lambda _, x: entered["blocks"].append(x[0]))
    last.register_forward_pre_hook(lambda _, x: entered["last"].append(x[0]))
    tokens = published.forward_features(reference["x"])
    logits = published.forward_head(tokens)
    maps = [attention_map(*pair) for pair in zip(blocks, entered["blocks"], strict=True)]
    same(maps[0], reference["model_A0"])
    same(maps[1], reference["model_A1"])
    same(blocks[1](entered["blocks"][1]), reference["model_hidden"])
    assert torch.equal(published.blocks.selected + 1, reference["model_part_index_plus1"])
    same(entered["last"][0], reference["part_layer_input"])
    same(attention_map(last, entered["last"][0]), reference["part_layer_attention"])
    same(tokens, reference["part_tokens"])
    same(logits, reference["logits"])
    entropy = F.cross_entropy(logits, reference["y"])
    contrast = contrastive_loss(tokens[:, 0], reference["y"])
    same(entropy, reference["loss_cross_entropy"])
    same(contrast, reference["loss_contrastive"])
    same(entropy + contrast, reference["loss"])


def test_overlapping_patches_are_as_many_as_published(reference):
    sizes = SIZES | {"patch_size": 4}
    model = create_backbone("vit_tiny_patch16_224", 3, False, sizes, (16, 16), stride=3)
    count = int(reference["overlap_patches_16px_patch4_step3"])
    assert model.patch_embed(torch.zeros(1, 3, 16, 16)).shape[1] == count
    assert model.pos_embed.shape[1] == 1 + count and model.patch_embed.grid_size == (5, 5)


def test_a_picture_of_448_pixels_has_1369_overlapping_patches():
    with torch.device("meta"):
        model = create_backbone("vit_base_patch16_224", 3, False, {"depth": 2}, (448, 448), 12)
    assert model.patch_embed.num_patches == 37 * 37


# ------------------------------------------------------------------------------- in the model


def slow_contrast(z: Tensor, y: Tensor, margin: float) -> float:
    found = 0.0
    for i in range(len(z)):
        for j in range(len(z)):
            similar = float(F.cosine_similarity(z[i], z[j], dim=0))
            found += 1 - similar if y[i] == y[j] else max(similar - margin, 0)
    return found / len(z) ** 2


def test_the_contrastive_loss_is_the_sum_over_pairs():
    z, y = torch.randn(6, 5).double(), torch.tensor([0, 1, 0, 2, 1, 1])
    for margin in (0.4, -1.0, 0.0):
        found = float(contrastive_loss(z, y, margin))
        assert found == pytest.approx(slow_contrast(z, y, margin))


@pytest.fixture
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    made = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=3, **SIZES).double()
    for x in made.parameters():  # so that heads look at different places
        torch.nn.init.normal_(x, std=0.4)
    return made.eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("fused", [True, False])
def test_maps_are_those_of_the_model_before_dropout(model, images, fused):
    """Which fused attention hides: seen here where it is off."""
    seen: list[Tensor] = []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    model(images)
    for block in model.blocks:
        block.attn.fused_attn = fused
        block.attn.attn_drop.p = 0.5
    select_in_last_block(model)
    F = seen[1] @ seen[0]
    expected = F[:, :, 0, 1:].argmax(dim=-1)
    model.train()(images)
    assert torch.equal(model.blocks.selected, expected)
    assert len(expected.unique()) > 1


def test_the_state_dict_and_what_it_loads_are_those_without_parts(model):
    names = list(model.state_dict())
    select_in_last_block(model)
    assert list(model.state_dict()) == names
    assert isinstance(model.blocks, PartBlocks) and type(model) is VisionTransformer


def test_registers_go_with_the_class_token(images):
    options = {"reg_tokens": 2, "num_classes": 3}
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, **options, **SIZES).double()
    select_in_last_block(model)
    assert model.forward_features(images).shape == (2, 3 + 2, 16)


@pytest.mark.parametrize("method", METHODS)
def test_weights_of_tokens_go_through_the_selection(model, images, method):
    """Against full matrices between all tokens: parts are rows of the tokens that were selected."""
    select_in_last_block(model)
    trace = relprop.record(model, images)
    index = torch.cat([torch.zeros(2, 1).long(), model.blocks.selected + 1], dim=1)
    chosen = F.one_hot(index, 17).double()  # [B, 1 + H, 17]
    for target in range(3):
        found = relprop.explain_trace(trace, target, method).relevance
        *blocks, last = blocks_of(trace, torch.full((2,), target), method)
        assert last.shape[1:] == (3, 3)
        expected = (chain([last], method) @ chosen @ chain(blocks, method))[:, 0, 1:]
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)
        assert (found.abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("method", ["attnlrp", "cp_lrp", "lrp", "agf"])
def test_relevance_goes_through_the_selection(model, images, method):
    select_in_last_block(model)
    for target in range(3):
        found = relprop.explain(model, images, target, method).relevance
        assert found.isfinite().all() and (found.abs().sum(dim=1) > 0).all()


def test_boxes_are_where_the_patches_are_cut():
    model = create_backbone("vit_tiny_patch16_224", 3, False, SIZES, (32, 40), stride=6)
    assert model.patch_embed.grid_size == (5, 6)
    selected = torch.tensor([[0, 7, 29]])
    expected = [[0, 0, 8, 8], [6, 6, 14, 14], [30, 24, 38, 32]]
    assert boxes_of(selected, model.patch_embed, (32, 40))[0].tolist() == expected


def test_maps_of_overlapping_patches_are_drawn_where_the_patches_are():
    """Two patches of 8 pixels, 6 apart, on 14 pixels: their centres are at 4 and 10."""
    model = create_backbone("vit_tiny_patch16_224", 3, False, SIZES, (14, 14), stride=6)
    found = relprop.explain(model.eval(), torch.rand(1, 3, 14, 14), 0)
    assert found.grid == (2, 2)
    assert [(s.count, s.first, s.stride, s.length) for s in found.sides] == [(2, 0, 6, 8)] * 2
    one = relprop.Explanation(
        torch.tensor([[1.0, 0, 0, 0]]), found.target, found.logits, (2, 2), found.sides
    )
    row = one.heatmap(14)[0, 0]
    expected = [1] * 4 + [(10 - (x + 0.5)) / 6 for x in range(4, 10)] + [0] * 4
    torch.testing.assert_close(row, torch.tensor(expected))


# --------------------------------------------------------------------------------- as it is shown


def test_parts_are_outlined_on_the_picture_beside_the_maps():
    module = classifier(parts=True).eval()
    pictures = [Image.new("RGB", (40, 32), color) for color in ("black", "navy")]
    batch = module.prepare(pictures)
    trace = module.record(batch)
    selected = module.backbone.blocks.selected
    module.record(module.prepare(pictures[1:]))  # another batch is none of the trace's
    ((found,),) = ([x["image"]] for x in module.explain_sources(trace, batch, [0]))
    assert torch.equal(found.boxes, boxes_of(selected, module.backbone.patch_embed, (32, 32)))
    modality, line = module.sources["image"], np.array(ImageColor.getrgb(OUTLINE))
    captions = captions_of([found], ["why {}?"], module.task)
    drawn = modality.samples_picture(batch, [found], captions, "", False)
    panel = slice(0, 10 + PANEL + 4)  # of the input, and of the map
    assert near(drawn[:, panel], line).any() and not near(drawn[:, panel.stop :], line).any()
    plain = replace(found, boxes=None)
    drawn = modality.samples_picture(batch, [plain], captions, "", False)
    assert not near(drawn, line).any()


def test_an_explanation_in_parts_of_the_batch_has_all_boxes():
    module = classifier(parts=True)
    batch = module.prepare([Image.new("RGB", (32, 32), x) for x in ("black", "navy", "white")])
    trace = module.record(batch)
    ((expected,),) = ([x["image"]] for x in module.explain_sources(trace, batch, [0]))
    found = module.train().explain(batch, 0, max_memory=2**20)
    assert torch.equal(found.boxes, expected.boxes) and module.backbone.training


def near(picture: np.ndarray, color: np.ndarray) -> np.ndarray:
    return (np.abs(picture.astype(int) - color) < 40).all(axis=-1)


def test_boxes_of_a_picture_are_in_the_part_that_the_model_saw():
    """A picture of 64 x 128, of whose middle the model was given 32 x 32 pixels."""
    modality = classifier().sources["image"]
    part = ImagePart(
        modality, Image.new("RGB", (128, 64)), {}, region=(32, 0, 96, 64), size=(128, 64),
        given=(32, 32), boxes=torch.tensor([[8, 0, 16, 8]]),
    )  # fmt: skip
    assert part.json()["boxes"] == part.page()["boxes"] == [[0.375, 0, 0.5, 0.25]]
    drawn = part.outlined(np.zeros((64, 128, 3), dtype=np.float32))
    rows, columns = np.nonzero(drawn[..., 2] > 0.5)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (48, 63, 0, 15)


def test_a_model_with_parts_is_no_model_of_timms(tmp_path):
    module = classifier(parts=True).eval()
    with pytest.raises(InputError, match="with model.parts=True, which its library .*accepted"):
        EXPORTS.find("timm")(module)
    with pytest.raises(InputError, match="--to hf.*accepted: .*safetensors"):
        EXPORTS.find("hf")(module)
    export = EXPORTS.find("safetensors")(module)
    export.write(tmp_path)
    assert export.library == "pytorch" and "create_model" not in export.usage("FOLDER")
    again = classifier(weights=str(tmp_path / "model.safetensors"), parts=True)
    for name, value in module.backbone.state_dict().items():
        assert torch.equal(again.backbone.state_dict()[name], value)


# -------------------------------------------------------------------- options of the classifier


def classifier(**options) -> ViTClassifier:
    torch.manual_seed(0)
    options = {"name": "vit_tiny_patch16_224", "model_options": SIZES} | options
    return ViTClassifier(NAMES, INPUT, **options)


AVG = {"class_token": False, "global_pool": "avg"}


@pytest.mark.parametrize(
    "options, said",
    [
        ({"parts": True, "name": "swin_tiny_patch4_window7_224", "model_options": None},
         "model.parts is true, and the model is a SwinTransformer; accepted: a plain ViT"),
        ({"parts": True, "model_options": SIZES | AVG},
         "model.parts is true, and the head does not read a class token .*pools by avg.*accepted"),
        ({"parts": True, "pool": "attention"}, "does not read a class token .*pools by map"),
        ({"parts": True, "model_options": SIZES | {"depth": 1}},
         "the model has 1 block, of the class Block"),
        ({"contrastive": 1.0, "mixup": 0.8},
         "model.contrastive is 1.0, and model.mixup is 0.8; accepted with it: 0"),
        ({"contrastive": 1.0, "cutmix": 0.8}, "model.cutmix is 0.8; accepted with it: 0"),
        ({"contrastive": 1.0, "compile": True}, "model.compile is True; accepted with it: False"),
        ({"contrastive": 1.0, "task": "multilabel"}, "model.task is multilabel; accepted with it"),
        ({"contrastive": 1.0, "pool": "avg"}, "model.contrastive is 1.0, and the head does not"),
        ({"patch_stride": 9},
         "model.patch_stride is 9, and patches have 8 pixels a side; accepted: 1 to 8"),
        ({"patch_stride": 4, "name": "vit_tiny_r_s16_p8_224", "model_options": None},
         "model.patch_stride is 4, and the model makes tokens by HybridEmbed; accepted"),
        ({"patch_stride": 4, "name": "resnet18", "model_options": None},
         "model.patch_stride is 4, and the model is a ResNet; accepted: a plain ViT"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(options, said):
    with pytest.raises(InputError, match=said):
        classifier(**options)
