"""Texts of different length in one batch have the maps that each has alone, on small models of
Hugging Face, wherever the model itself gives a padded text the scores of the text alone."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import transformers
from torch import Tensor, nn

import relprop
from tests.helpers.maps import scattered

VOCABULARY, PAD, END, LENGTHS = 40, 0, 2, (7, 5, 3)
TARGET = torch.tensor([0, 2, 1])
EXACT, ROUNDED = 1e-9, 1e-4  # of the largest value; of models that cast to float32
IDS = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "eos_token_id": END, "bos_token_id": 1}
LABELS = {"num_labels": 3}
SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 32}
GROUPED = SIZES | {"num_key_value_heads": 2, "head_dim": 6}


@dataclass(frozen=True)
class Family:
    """A model, and the sides on which it may be padded.

    Attributes:
        make: the model.
        sides: those where its own scores do not change.
        tolerance: of the maps.
        position: of the token whose next one is explained.
        places: ``position_ids`` are given, which count the tokens of the text.
        decoder: the decoder's tokens have the same mask.
    """

    make: Callable[[], nn.Module]
    sides: tuple[str, ...] = ("right", "left")
    tolerance: float = EXACT
    position: int | None = None
    places: bool = False
    decoder: bool = False


def made(name: str, config: str, **options) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        settings = getattr(transformers, f"{config}Config")(**IDS | options)
        return scattered(getattr(transformers, name)(settings))

    return make


def decoder(name: str, tolerance: float, **sizes) -> dict[str, Family]:
    """As a classifier of texts, and as what says the next token."""
    language = "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM"
    classifier = made(f"{name}ForSequenceClassification", name, **sizes, **LABELS)
    common = {"tolerance": tolerance, "places": True}
    return {
        name: Family(classifier, **common),
        f"{name}, next token": Family(made(language, name, **sizes), position=-1, **common),
    }


FAMILIES = {
    **decoder("GPT2", EXACT, n_embd=24, n_layer=2, n_head=4, n_positions=16),
    **decoder("Llama", ROUNDED, **GROUPED),
    **decoder("Qwen3", ROUNDED, **GROUPED),
    "T5": Family(
        made("T5ForSequenceClassification", "T5", d_model=24, d_kv=6, d_ff=32, num_layers=2,
             num_heads=4, decoder_start_token_id=PAD, **LABELS),
        tolerance=ROUNDED, decoder=True,
    ),
    "BART": Family(  # its positions are counted from the left
        made("BartForSequenceClassification", "Bart", d_model=24, encoder_layers=2,
             decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
             encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=16,
             decoder_start_token_id=END, forced_eos_token_id=None, **LABELS),
        ("right",),
    ),
    "ModernBERT": Family(  # the head reads the first column
        made("ModernBertForSequenceClassification", "ModernBert", cls_token_id=3, sep_token_id=END,
             **SIZES, **LABELS),
        ("right",), ROUNDED,
    ),
    "ModernBERT, mean": Family(
        made("ModernBertForSequenceClassification", "ModernBert", cls_token_id=3, sep_token_id=END,
             classifier_pooling="mean", local_attention=4, **SIZES, **LABELS),
        tolerance=ROUNDED,
    ),
    "DeBERTa-v2": Family(  # the head reads the first column
        made("DebertaV2ForSequenceClassification", "DebertaV2", relative_attention=True,
             pos_att_type=["p2c", "c2p"], position_biased_input=False, position_buckets=4,
             type_vocab_size=0, **SIZES, **LABELS),
        ("right",),
    ),
}  # fmt: skip


def texts() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    drawn = [torch.randint(3, VOCABULARY, (1, n), generator=generator) for n in LENGTHS]
    for ids in drawn:
        ids[:, -1] = END
    return drawn


def padded(ids: Tensor, side: str, value: int) -> Tensor:
    missing = max(LENGTHS) - ids.shape[1]
    pad = (0, missing) if side == "right" else (missing, 0)
    return nn.functional.pad(ids, pad, value=value)


def given(family: Family, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
    inputs = {"input_ids": ids, "attention_mask": mask}
    if family.places:
        inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    if family.decoder:
        inputs["decoder_attention_mask"] = mask
    return inputs


def scores(family: Family, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """[B, C], by the model itself."""
    logits = model(**inputs).logits.detach()
    if family.position is None:
        return logits
    columns = torch.arange(logits.shape[1])
    last = (columns * inputs["attention_mask"]).amax(1)
    return logits[torch.arange(len(logits)), last]


def assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape and expected.abs().max() > 0
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("method", ["attnlrp", "generic_attention"])
@pytest.mark.parametrize(
    "name, side", [(name, side) for name, family in FAMILIES.items() for side in family.sides]
)
def test_a_padded_text_has_the_map_of_the_text_alone(name, side, method):
    family, each = FAMILIES[name], texts()
    model = family.make()
    asked = {} if family.position is None else {"position": family.position}
    ids = torch.cat([padded(x, side, PAD) for x in each])
    mask = torch.cat([padded(torch.ones_like(x), side, 0) for x in each])
    together = given(family, ids, mask)
    found = relprop.explain(model, together, TARGET, method, **asked)
    of_batch = scores(family, model, together)
    assert_close(found.logits, of_batch, family.tolerance)
    for b, x in enumerate(each):
        inputs = given(family, x, torch.ones_like(x))
        assert_close(of_batch[b : b + 1], scores(family, model, inputs), family.tolerance)
        alone = relprop.explain(model, inputs, TARGET[b : b + 1], method, **asked)
        assert list(found.sources) == list(alone.sources)
        kept = mask[b].bool()
        for source, expected in alone.sources.items():
            relevance = found.sources[source].relevance[b]
            assert_close(relevance[kept], expected.relevance[0], family.tolerance)
            assert not relevance[~kept].any()
