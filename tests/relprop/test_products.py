"""Maps of unmodified models of Hugging Face and timm are products of full matrices.

Attention is that of an eager model (``output_attentions``), its gradients are autograd's.
"""

import pytest
import timm
import torch
import transformers
from torch import Tensor

import relprop

SIZES = {"attn_implementation": "eager", "output_attentions": True}


def build(model: torch.nn.Module) -> torch.nn.Module:
    """In float64, with weights that make attention uneven."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.double().eval()


def factors(y: Tensor, maps: tuple[Tensor, ...]) -> list[Tensor]:
    """E_h (G * A)^+ of each map, for generic_attention."""
    G = torch.autograd.grad(y, maps, retain_graph=True)
    return [(g * a).clamp(min=0).mean(1).detach() for g, a in zip(G, maps, strict=True)]


def chain(blocks: list[Tensor]) -> Tensor:
    product = torch.eye(blocks[0].shape[-1]).double()
    for C in blocks:
        product = product + C @ product
    return product


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert expected.std() > 0
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def encoder_decoder(kind: str) -> torch.nn.Module:
    common = {"vocab_size": 40, "num_labels": 3, "pad_token_id": 0, "eos_token_id": 2}
    if kind == "bart":
        config = transformers.BartConfig(
            d_model=24, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
            max_position_embeddings=32, bos_token_id=1, decoder_start_token_id=2,
            forced_eos_token_id=None, **common, **SIZES,
        )  # fmt: skip
        return build(transformers.BartForSequenceClassification(config))
    config = transformers.T5Config(
        d_model=24, d_kv=12, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0,
        **common, **SIZES,
    )  # fmt: skip
    return build(transformers.T5ForSequenceClassification(config))


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_an_encoder_and_a_decoder(kind):
    """The decoder reads the shifted ids, and attends to what the encoder makes of the ids."""
    model, B, N = encoder_decoder(kind), 2, 7
    ids = torch.randint(3, 40, (B, N))
    ids[:, -1] = 2  # the head reads this token
    out = model(input_ids=ids)
    y = out.logits[:, 1].sum()
    encoder, own, cross = (
        factors(y, getattr(out, f"{name}_attentions")) for name in ("encoder", "decoder", "cross")
    )
    of_ids = chain(encoder)
    shifted, taken = torch.eye(N).double(), torch.zeros(B, N, N).double()
    for C, C_x in zip(own, cross, strict=True):
        shifted, taken = shifted + C @ shifted, taken + C @ taken
        taken = taken + C_x @ of_ids
    found = relprop.explain(model, {"input_ids": ids}, 1, "generic_attention").sources
    assert_close(found["input_ids"].relevance, taken[:, -1])
    assert_close(found["input_ids_2"].relevance, shifted[:, -1])


def test_pairs_of_two_towers():
    """Each tower by itself, of the score of pair i: its class token, or its last token."""
    common = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    common |= {"intermediate_size": 32}
    text = common | {"vocab_size": 40, "max_position_embeddings": 16, "eos_token_id": 39}
    text |= {"bos_token_id": 1, "pad_token_id": 0}
    vision = common | {"image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(
        text_config=text, vision_config=vision, projection_dim=16, attn_implementation="eager"
    )
    model = build(transformers.CLIPModel(config))
    ids = torch.randint(2, 39, (2, 7))
    ids[:, -1] = 39
    inputs = {"input_ids": ids, "pixel_values": torch.randn(2, 3, 32, 32).double()}
    out = model(**inputs, output_attentions=True)
    y = out.logits_per_image.diagonal().sum()
    texts, pictures = (
        chain(factors(y, x.attentions)) for x in (out.text_model_output, out.vision_model_output)
    )
    found = relprop.explain(
        model, inputs, torch.arange(2), "generic_attention", output=lambda o: o.logits_per_image
    ).sources
    assert_close(found["input_ids"].relevance, texts[:, -1])
    assert_close(found["pixel_values"].relevance, pictures[:, 0, 1:])
    assert found["pixel_values"].grid == (4, 4)


def test_parallel_blocks_count_the_stream_once():
    config = transformers.GPTNeoXConfig(
        vocab_size=40, hidden_size=24, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=32, num_labels=3, pad_token_id=0, use_parallel_residual=True, **SIZES,
    )  # fmt: skip
    model = build(transformers.GPTNeoXForSequenceClassification(config))
    ids = torch.randint(1, 40, (2, 6))
    out = model(input_ids=ids)
    expected = chain(factors(out.logits[:, 2].sum(), out.attentions))
    found = relprop.explain(model, {"input_ids": ids}, 2, "generic_attention").relevance
    assert_close(found, expected[:, -1])


# ------------------------------------------------------------------------------- windows


def windowed(model: torch.nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Scores, and every attention map [B * windows, H, n, n] of timm's Swin, in the graph."""
    maps: list[Tensor] = []
    softmax = torch.nn.Softmax.forward

    def kept(module, scores):
        maps.append(softmax(module, scores))
        return maps[-1]

    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    torch.nn.Softmax.forward = kept
    try:
        return model(x), maps
    finally:
        torch.nn.Softmax.forward = softmax


def test_shifted_windows_and_merged_patches():
    """Each block as one matrix between all tokens; merging spreads a token over its four."""
    model = build(timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=32, patch_size=4, window_size=4, embed_dim=16,
        depths=(2, 2), num_heads=(2, 2), num_classes=3,
    ))  # fmt: skip
    x = torch.randn(2, 3, 32, 32).double()
    y, maps = windowed(model, x)
    C_of_windows = factors(y[:, 1].sum(), tuple(maps))
    side, place = 8, 0
    product = torch.eye(side**2).double()
    for stage in model.layers:
        if not isinstance(stage.downsample, torch.nn.Identity):
            product = merging(side) @ product
        for block in stage.blocks:
            side = block.input_resolution[0]
            C = whole(C_of_windows[place], side, block.window_size[0], block.shift_size[0])
            product, place = product + C @ product, place + 1
    trace = relprop.record(model, x)
    target = torch.tensor([1, 1])
    (start,) = trace._starts
    w = trace._shares(target, relprop.rules.PAPER, 1e-9)[0].flatten(1)
    found = relprop.explain_trace(trace, 1, "generic_attention").relevance
    assert_close(found, (w[:, None] @ product)[:, 0])


def whole(C: Tensor, side: int, window: int, shift: int) -> Tensor:
    """[B * windows, n, n] as a matrix between all tokens, [B, side^2, side^2]."""
    index = torch.arange(side**2).view(side, side).roll((-shift, -shift), (0, 1))
    index = index.unflatten(0, (-1, window)).unflatten(2, (-1, window))
    index = index.permute(0, 2, 1, 3).reshape(-1, window**2)  # of each window, its tokens
    C = C.unflatten(0, (-1, len(index)))
    found = torch.zeros(len(C), side**2, side**2).double()
    for i, tokens in enumerate(index):
        found[:, tokens[:, None], tokens[None]] = C[:, i]
    return found


def merging(side: int) -> Tensor:
    """Weights of [side / 2, side / 2] tokens as those of [side, side]: a quarter each."""
    found = torch.zeros((side // 2) ** 2, side**2).double()
    for row in range(side):
        for column in range(side):
            found[(row // 2) * (side // 2) + column // 2, row * side + column] = 1 / 4
    return found
