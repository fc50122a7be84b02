"""Maps of unmodified models of Hugging Face and timm are products of full matrices.

Attention is that of an eager model and its gradients are autograd's. Of the recording come the
relevance of the maps, which transformer_attribution multiplies, and nothing else.
"""

from dataclasses import dataclass, field

import pytest
import timm
import torch
import transformers
from torch import Tensor, nn

import relprop
from tests.helpers.maps import Softmaxes, gradients, scattered
from tests.helpers.matrices import Step, merging, of_maps, product, windows

B = 2
EAGER = {"attn_implementation": "eager"}
SIZES = EAGER | {"output_attentions": True}
OF_METHODS = pytest.mark.parametrize(
    "method", ["transformer_attribution", "generic_attention", "rollout"]
)
OF_OPTIONS = pytest.mark.parametrize(
    "options", [{}, {"normalize_rows": True}, {"start_layer": 1}], ids=["", "normalised", "start_1"]
)


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert expected.std() > 0
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@dataclass
class Case:
    """A model, an input, what is explained, and its maps in the order of the recording."""

    model: nn.Module
    inputs: dict[str, Tensor] | Tensor
    scores: Tensor  # [B], in the graph
    maps: list[Tensor]  # [B, H, n, m], in the graph
    target: Tensor
    asked: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.trace = relprop.record(self.model, self.inputs, **self.asked)

    def factors(self, method: str) -> list[Tensor]:
        """C of each map."""
        trace, G = self.trace, gradients(self.scores, self.maps)
        for own, recorded in zip(self.maps, trace.attention, strict=True):
            torch.testing.assert_close(recorded, own, rtol=1e-9, atol=1e-12)
        R = trace.relevance(self.target)
        return [of_maps(method, *x) for x in zip(self.maps, G, R, strict=True)]

    def sources(self, method: str, options: dict) -> dict[str, Tensor]:
        found = relprop.explain_trace(self.trace, self.target, method, **options)
        return {name: x.relevance for name, x in found.sources.items()}


def multiplied(steps: list[Step], tokens: int, method: str, options: dict) -> Tensor:
    normalised = {"normalize_rows": True} if method == "rollout" else {}
    return product(steps, tokens, **options | normalised)


# ------------------------------------------------------------------- encoder and decoder


def encoder_decoder(kind: str) -> tuple[Case, int]:
    common = {"vocab_size": 40, "num_labels": 3, "pad_token_id": 0, "eos_token_id": 2}
    if kind == "bart":
        config = transformers.BartConfig(
            d_model=24, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
            max_position_embeddings=32, bos_token_id=1, decoder_start_token_id=2,
            forced_eos_token_id=None, **common, **SIZES,
        )  # fmt: skip
        model = scattered(transformers.BartForSequenceClassification(config))
    else:
        config = transformers.T5Config(
            d_model=24, d_kv=12, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0,
            **common, **SIZES,
        )  # fmt: skip
        model = scattered(transformers.T5ForSequenceClassification(config))
    ids = torch.randint(3, 40, (B, 7))
    ids[:, -1] = 2  # the head reads this token
    out = model(input_ids=ids)
    pairs = zip(out.decoder_attentions, out.cross_attentions, strict=True)
    maps = [*out.encoder_attentions, *(x for pair in pairs for x in pair)]
    return Case(model, {"input_ids": ids}, out.logits[:, 1], maps, torch.tensor([1, 1])), 7


@OF_METHODS
@OF_OPTIONS
@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_an_encoder_and_a_decoder(kind, method, options):
    """The decoder reads the shifted ids, and attends to what the encoder makes of the ids."""
    case, N = encoder_decoder(kind)
    first, second, *decoder = case.factors(method)
    steps = [Step(first), Step(second, depth=1)]
    for depth, C in enumerate(decoder):
        steps.append(Step(C, N, N if depth % 2 == 0 else 0, depth))
    expected = multiplied(steps, 2 * N, method, options)[:, -1]
    found = case.sources(method, options)
    assert list(found) == ["input_ids", "input_ids_2"]
    assert_close(found["input_ids"], expected[:, :N])
    assert_close(found["input_ids_2"], expected[:, N:])


# ------------------------------------------------------------------------------- towers


def clip() -> tuple[Case, Tensor]:
    common = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    common |= {"intermediate_size": 32}
    text = common | {"vocab_size": 40, "max_position_embeddings": 16, "eos_token_id": 39}
    text |= {"bos_token_id": 1, "pad_token_id": 0}
    vision = common | {"image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(
        text_config=text, vision_config=vision, projection_dim=16, **EAGER
    )
    model = scattered(transformers.CLIPModel(config))
    ids, ends = torch.randint(2, 39, (B, 7)), torch.tensor([4, 6])
    ids[torch.arange(B), ends] = 39
    inputs = {"input_ids": ids, "pixel_values": torch.randn(B, 3, 32, 32).double()}
    out = model(**inputs, output_attentions=True)
    towers = [*out.vision_model_output.attentions], [*out.text_model_output.attentions]
    asked = {"output": lambda o: o.logits_per_image}
    y = out.logits_per_image.diagonal()
    return Case(model, inputs, y, [*towers[0], *towers[1]], torch.arange(B), asked), ends


@OF_METHODS
@OF_OPTIONS
def test_pairs_of_two_towers(method, options):
    """Each tower by itself, of the score of pair i: the picture's class token, the text's end."""
    case, ends = clip()
    C = case.factors(method)
    pictures = [Step(C[i], depth=i) for i in (0, 1)]
    texts = [Step(C[2 + i], 17, 17, i) for i in (0, 1)]
    expected = multiplied([*pictures, *texts], 17 + 7, method, options)
    found = case.sources(method, options)
    assert found["pixel_values"].shape == (B, 16)
    assert_close(found["pixel_values"], expected[:, 0, 1:17])
    assert_close(found["input_ids"], expected[torch.arange(B), 17 + ends, 17:])


# ------------------------------------------------------------------------ parallel blocks


@OF_METHODS
@OF_OPTIONS
def test_parallel_blocks_count_the_stream_once(method, options):
    config = transformers.GPTNeoXConfig(
        vocab_size=40, hidden_size=24, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=32, num_labels=3, pad_token_id=0, use_parallel_residual=True, **SIZES,
    )  # fmt: skip
    model = scattered(transformers.GPTNeoXForSequenceClassification(config))
    inputs = {"input_ids": torch.randint(1, 40, (B, 6))}
    out = model(**inputs)
    case = Case(model, inputs, out.logits[:, 2], [*out.attentions], torch.tensor([2, 2]))
    steps = [Step(C, depth=depth) for depth, C in enumerate(case.factors(method))]
    expected = multiplied(steps, 6, method, options)
    assert_close(case.sources(method, options)["input_ids"], expected[:, -1])


# -------------------------------------------------------------------- attention as pooling


def recorded_softmaxes(model: nn.Module, x: Tensor) -> Case:
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    with Softmaxes() as kept:
        y = model(x)
    return Case(model, x, y[:, 1], kept.maps, torch.tensor([1, 1]))


@OF_METHODS
@OF_OPTIONS
@pytest.mark.parametrize("prefix", [0, 1])
def test_a_picture_that_is_read_by_attention_pooling(prefix, method, options):
    """A learned query takes the tokens, as in timm's SigLIP; it has none of its own to keep."""
    model = scattered(timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2,
        num_classes=3, global_pool="map", class_token=prefix == 1,
    ))  # fmt: skip
    case, N = recorded_softmaxes(model, torch.randn(B, 3, 32, 32).double()), prefix + 16
    *blocks, pool = case.factors(method)
    steps = [Step(C, depth=depth) for depth, C in enumerate(blocks)]
    steps.append(Step(pool, N, prefix, len(blocks), residual=False))  # of the patches alone
    expected = multiplied(steps, N + 1, method, options)[:, -1, prefix:N]
    assert_close(case.sources(method, options)["input"], expected)


class Open(nn.Module):
    """torch's MultiheadAttention written out, to see its attention."""

    def __init__(self, module: nn.MultiheadAttention) -> None:
        super().__init__()
        self.module = module

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, None]:
        own = self.module
        weights, biases = own.in_proj_weight.chunk(3), own.in_proj_bias.chunk(3)
        q, k, v = (
            nn.functional.linear(x, w, b).unflatten(-1, (own.num_heads, -1)).transpose(1, 2)
            for x, w, b in zip((query, key, value), weights, biases, strict=True)
        )
        A = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        return own.out_proj((A @ v).transpose(1, 2).flatten(2)), None


@OF_METHODS
@OF_OPTIONS
def test_pairs_of_siglip(method, options):
    """The picture is read by attention pooling, the text at its last token."""
    common = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    common |= {"intermediate_size": 32}
    text = common | {"vocab_size": 40, "max_position_embeddings": 7, "projection_size": 24}
    config = transformers.SiglipConfig(
        text_config=text, vision_config=common | {"image_size": 32, "patch_size": 8}, **EAGER
    )
    model = scattered(transformers.SiglipModel(config), std=0.2)
    inputs = {
        "input_ids": torch.randint(2, 39, (B, 7)),
        "pixel_values": torch.randn(B, 3, 32, 32).double(),
    }
    head, closed = model.vision_model.head, model.vision_model.head.attention
    head.attention = Open(closed)
    with Softmaxes() as kept:
        out = model(**inputs, output_attentions=True)
    head.attention = closed
    (pool,) = (a for a in kept.maps if a.shape[-2] == 1)
    blocks = [x.attentions for x in (out.vision_model_output, out.text_model_output)]
    asked = {"output": lambda o: o.logits_per_image}
    y = out.logits_per_image.diagonal()
    case = Case(model, inputs, y, [*blocks[0], pool, *blocks[1]], torch.arange(B), asked)
    first, second, pool, *texts = case.factors(method)
    steps = [Step(first), Step(second, depth=1), Step(pool, 16, 0, 2, residual=False)]
    steps += [Step(C, 17, 17, depth) for depth, C in enumerate(texts)]
    expected = multiplied(steps, 17 + 7, method, options)
    found = case.sources(method, options)
    assert_close(found["pixel_values"], expected[:, 16, :16])
    assert_close(found["input_ids"], expected[:, -1, 17:])


# ------------------------------------------------------------------------------- windows


class Head(nn.Module):
    """What of a Swin comes after its last block, as a model of its own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.norm, self.head = model.norm, model.head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x))


def shares(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """|sum_c R| at the tokens that the head reads, over its sum, [B, N]."""
    stream = model.layers(model.patch_embed(x)).detach()
    R = relprop.record(Head(model), stream).input_relevance(target, "paper")
    held = R.sum(-1).abs().flatten(1)
    return held / held.sum(1, keepdim=True)


@OF_METHODS
@OF_OPTIONS
def test_shifted_windows_and_merged_patches(method, options):
    """Each block as one matrix between all tokens; merging spreads a token over its four."""
    model = scattered(timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=32, patch_size=4, window_size=2, embed_dim=16,
        depths=(2, 2), num_heads=(2, 2), num_classes=3,
    ))  # fmt: skip
    x = torch.randn(B, 3, 32, 32).double()
    case = recorded_softmaxes(model, x)
    factors, depth = iter(case.factors(method)), 0
    w = shares(model, x, case.target)[:, None]
    products = []
    for stage, side in zip(model.layers, (8, 4), strict=True):
        steps = []
        for block in stage.blocks:
            assert block.input_resolution == (side, side)
            C = windows(next(factors), side, block.window_size[0], block.shift_size[0])
            steps.append(Step(C, depth=depth))
            depth += 1
        assert any(block.shift_size[0] for block in stage.blocks)
        products.append(multiplied(steps, side**2, method, options))
    expected = w @ products[1] @ merging(8) @ products[0]
    assert_close(case.sources(method, options)["input"], expected[:, 0])
