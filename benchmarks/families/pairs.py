"""Small random models of Hugging Face transformers that read a text and look at a picture."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import transformers as hf
from torch import Tensor, nn

from benchmarks.families.entry import Entry, Example
from benchmarks.families.pictures import SIDE, build, noise
from benchmarks.families.texts import GROUPED, IDS, LABELS, LENGTH, OPT, ids
from benchmarks.families.texts import SIZES as TEXT

VISION = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
    "image_size": SIDE, "patch_size": 8,
}  # fmt: skip
WORDS = IDS | TEXT


def text(mask: bool = True) -> dict[str, Tensor]:
    found = {"input_ids": ids()}
    return found | ({"attention_mask": torch.ones(2, LENGTH, dtype=torch.long)} if mask else {})


def pictures() -> dict[str, Tensor]:
    return {"pixel_values": noise(2, 3, SIDE, SIDE)}


def made(model: nn.Module, inputs: dict[str, Tensor]) -> nn.Module:
    return build(model, **inputs)


def clip() -> Example:
    torch.manual_seed(0)
    towers = {"text_config": WORDS, "vision_config": VISION, "projection_dim": 16}
    inputs = text() | pictures()
    model = made(hf.CLIPModel(hf.CLIPConfig(**towers)), inputs)
    asked = {"output": lambda out: out.logits_per_image}
    return Example(model, inputs, asked, torch.arange(2), starts=2)


def siglip() -> Example:
    torch.manual_seed(0)
    towers = {"text_config": WORDS | {"projection_size": 24}, "vision_config": VISION}
    inputs = text(mask=False) | pictures()
    model = made(hf.SiglipModel(hf.SiglipConfig(**towers)), inputs)
    asked = {"output": lambda out: out.logits_per_image}
    return Example(model, inputs, asked, torch.arange(2), starts=2)


def blip() -> Example:
    torch.manual_seed(0)
    towers = {
        "text_config": WORDS | {"encoder_hidden_size": 24},
        "vision_config": VISION | {"initializer_range": 0.02}, "projection_dim": 16,
        "image_text_hidden_size": 16,
    }  # fmt: skip
    inputs = text() | pictures()
    model = made(hf.BlipForImageTextRetrieval(hf.BlipConfig(**towers)), inputs)
    return Example(model, inputs, {"output": lambda out: out.itm_score})


def vilt() -> Example:
    torch.manual_seed(0)
    config = hf.ViltConfig(**WORDS | VISION | {"modality_type_vocab_size": 2})
    inputs = text() | pictures()
    inputs["pixel_mask"] = torch.ones(2, SIDE, SIDE, dtype=torch.long)
    return Example(made(hf.ViltForQuestionAnswering(config), inputs), inputs)


def lxmert() -> Example:
    torch.manual_seed(0)
    config = hf.LxmertConfig(
        **WORDS | {"num_qa_labels": LABELS, "l_layers": 2, "x_layers": 2, "r_layers": 1},
        visual_feat_dim=16,
    )
    inputs = text() | {"visual_feats": noise(2, 5, 16), "visual_pos": noise(2, 5, 4).abs()}
    model = made(hf.LxmertForQuestionAnswering(config), inputs)
    return Example(model, inputs, {"output": lambda out: out.question_answering_score})


def visual_bert() -> Example:
    torch.manual_seed(0)
    config = hf.VisualBertConfig(**WORDS | {"visual_embedding_dim": 16})
    inputs = text() | {
        "visual_embeds": noise(2, 5, 16),
        "visual_attention_mask": torch.ones(2, 5, dtype=torch.long),
        "visual_token_type_ids": torch.ones(2, 5, dtype=torch.long),
    }
    return Example(made(hf.VisualBertForQuestionAnswering(config), inputs), inputs)


IMAGE = 39  # the id that stands for a patch in a text
ASKED = {"output": lambda out: out.logits[:, -1]}  # the next token


def with_patches(count: int) -> dict[str, Tensor]:
    """A text that a picture's tokens come before, and the picture."""
    words = ids()
    words = torch.cat([torch.full((len(words), count), IMAGE), words], dim=1)
    return {"input_ids": words, "attention_mask": torch.ones_like(words)} | pictures()


def llava() -> Example:
    torch.manual_seed(0)
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**VISION), text_config=hf.LlamaConfig(**WORDS),
        image_token_index=IMAGE, vision_feature_layer=-1,
    )  # fmt: skip
    inputs = with_patches((SIDE // 8) ** 2)
    return Example(made(hf.LlavaForConditionalGeneration(config), inputs), inputs, ASKED)


def pali_gemma() -> Example:
    torch.manual_seed(0)
    config = hf.PaliGemmaConfig(
        vision_config=hf.SiglipVisionConfig(**VISION),
        text_config=hf.GemmaConfig(**WORDS | GROUPED), image_token_index=IMAGE, projection_dim=24,
        hidden_size=24,
    )  # fmt: skip
    inputs = with_patches((SIDE // 8) ** 2)
    return Example(made(hf.PaliGemmaForConditionalGeneration(config), inputs), inputs, ASKED)


def blip2() -> Example:
    torch.manual_seed(0)
    config = hf.Blip2Config(
        vision_config=VISION, qformer_config=WORDS | {"encoder_hidden_size": 24},
        text_config=WORDS | OPT | {"model_type": "opt"}, num_query_tokens=4,
        image_token_index=IMAGE,
    )  # fmt: skip
    inputs = with_patches(4)
    return Example(made(hf.Blip2ForConditionalGeneration(config), inputs), inputs, ASKED)


def entries() -> Iterator[Entry]:
    yield Entry("CLIP, pairs", "pair", "CLIPModel", clip, must=True)
    yield Entry("SigLIP, pairs", "pair", "SiglipModel", siglip, must=True)
    yield Entry("BLIP", "pair", "BlipForImageTextRetrieval", blip, must=True)
    yield Entry("ViLT", "pair", "ViltForQuestionAnswering", vilt, must=True)
    yield Entry("LXMERT", "pair", "LxmertForQuestionAnswering", lxmert, must=True)
    yield Entry("VisualBERT", "pair", "VisualBertForQuestionAnswering", visual_bert, must=True)
    yield Entry("LLaVA, next token", "pair", "LlavaForConditionalGeneration", llava)
    yield Entry("PaliGemma, next token", "pair", "PaliGemmaForConditionalGeneration", pali_gemma)
    yield Entry("BLIP-2, next token", "pair", "Blip2ForConditionalGeneration", blip2)
