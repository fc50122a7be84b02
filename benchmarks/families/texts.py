"""Small random text models of Hugging Face transformers: classifiers and next tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
import transformers as hf
from torch import Tensor

from benchmarks.families.entry import Entry, Example, Padded
from benchmarks.families.weights import randomise

WORDS, PAD, EOS, LABELS, LENGTH, SHORT = 40, 1, 2, 3, 7, 4
IDS = {
    "vocab_size": WORDS, "pad_token_id": PAD, "bos_token_id": 0, "eos_token_id": EOS,
    "num_labels": LABELS,
}  # fmt: skip
SIZES = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
    "max_position_embeddings": 32,
}  # fmt: skip
GROUPED = SIZES | {"num_key_value_heads": 1, "head_dim": 12}
GPT2 = {"n_embd": 24, "n_layer": 2, "n_head": 2, "n_positions": 32}
T5 = {
    "d_model": 24, "d_kv": 12, "d_ff": 48, "num_layers": 2, "num_heads": 2,
    "decoder_start_token_id": 0,
}  # fmt: skip
BART = {
    "d_model": 24, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
    "max_position_embeddings": 32, "decoder_start_token_id": EOS,
}  # fmt: skip
DEBERTA = SIZES | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
MODERN = SIZES | {"local_attention": 4, "cls_token_id": 0, "sep_token_id": EOS}
XLNET = {"d_model": 24, "n_layer": 2, "n_head": 2, "d_inner": 48}
MAMBA = {"hidden_size": 24, "num_hidden_layers": 2, "state_size": 8}
DISTIL = {"dim": 24, "n_layers": 2, "n_heads": 2, "hidden_dim": 48, "max_position_embeddings": 32}
MOBILE = SIZES | {"embedding_size": 24, "intra_bottleneck_size": 24, "num_feedforward_networks": 2}
OPT = SIZES | {"ffn_dim": 48, "word_embed_proj_dim": 24}
FALCON = SIZES | {"new_decoder_architecture": True, "num_kv_heads": 1}
NEO = {
    "hidden_size": 24, "num_layers": 2, "num_heads": 2, "max_position_embeddings": 32,
    "attention_types": [[["global", "local"], 1]], "window_size": 4,
}  # fmt: skip
CONV = SIZES | {"embedding_size": 24, "conv_kernel_size": 3}
MOE = GROUPED | {
    "num_local_experts": 3,
    "num_experts_per_tok": 2,
    "experts_implementation": "eager",
}

CLASSIFIERS = {  # the family: the prefix of its classes, what makes it small
    "BERT": ("Bert", SIZES),
    "RoBERTa": ("Roberta", SIZES),
    "ALBERT": ("Albert", SIZES | {"embedding_size": 16}),
    "ELECTRA": ("Electra", SIZES | {"embedding_size": 16}),
    "DistilBERT": ("DistilBert", DISTIL),
    "MobileBERT": ("MobileBert", MOBILE),
    "ModernBERT": ("ModernBert", MODERN),
    "DeBERTa-v2": ("DebertaV2", DEBERTA),
    "GPT-NeoX": ("GPTNeoX", SIZES),
    "GPT-2": ("GPT2", GPT2),
    "Llama": ("Llama", GROUPED),
    "Qwen2": ("Qwen2", GROUPED),
    "Qwen3": ("Qwen3", GROUPED),
    "OPT": ("OPT", OPT),
    "BLOOM": ("Bloom", {"hidden_size": 24, "n_layer": 2, "n_head": 2}),
    "Falcon": ("Falcon", FALCON),
    "GPT-J": ("GPTJ", GPT2 | {"rotary_dim": 4}),
    "GPT-Neo": ("GPTNeo", NEO),
    "Mistral": ("Mistral", GROUPED | {"sliding_window": 4}),
    "Gemma 2": ("Gemma2", GROUPED | {"sliding_window": 4}),
    "Phi-3": ("Phi3", GROUPED),
    "MPNet": ("MPNet", SIZES),
    "ConvBERT": ("ConvBert", CONV),
    "T5": ("T5", T5),
    "BART": ("Bart", BART),
    "XLNet": ("XLNet", XLNET),
    "Mixtral (experts)": ("Mixtral", MOE),
}
NEXT_TOKEN = ("GPT-2", "Llama", "Qwen2", "Qwen3")
REFUSED = ("XLNet", "BLOOM", "Mixtral (experts)", "Mamba, next token")
# Of others the table says nothing.
NOT_NAMED = (
    *("DistilBERT", "MobileBERT", "OPT", "Falcon", "GPT-J", "GPT-Neo", "Mistral", "Gemma 2"),
    *("Phi-3", "MPNet", "ConvBERT", *REFUSED),
)


def ids(count: int = 2, length: int = LENGTH) -> Tensor:
    """Ids [B, N] that end in EOS, as classifiers that read there want it."""
    drawn = torch.randint(3, WORDS, (count, length), generator=torch.Generator().manual_seed(1))
    drawn[:, -1] = EOS
    return drawn


DECODERS = ("GPT-NeoX", "GPT-2", "Llama", "Qwen2", "Qwen3")
# On these sides a padded sample has the logits of the sample alone: T5 and BART embed the padding
# to their left again, MobileBERT and ConvBERT look at its neighbours, XLNet reads the last column.
SIDES = dict.fromkeys(DECODERS, ("right", "left")) | {
    "MobileBERT": (), "ConvBERT": (), "XLNet": ("left",), "OPT": ("right", "left"),
}  # fmt: skip


def padded(side: str, positions: bool = False) -> Padded:
    """The second sample is shorter. ``positions``: they are given, and count its words."""
    batch, mask = ids(), torch.ones(2, LENGTH, dtype=torch.long)
    short = ids()[1:, -SHORT:]
    where = slice(0, SHORT) if side == "right" else slice(LENGTH - SHORT, LENGTH)
    batch[1], mask[1] = PAD, 0
    batch[1, where], mask[1, where] = short[0], 1
    alone = {"input_ids": short, "attention_mask": torch.ones_like(short)}
    inputs = {"input_ids": batch, "attention_mask": mask}
    if positions:
        for given in (inputs, alone):
            given["position_ids"] = (given["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    return Padded(inputs, alone, 1, where)


def build(cls: str, config: str, options: dict) -> torch.nn.Module:
    """A model of transformers, with random weights, in evaluation and float64."""
    torch.manual_seed(0)
    model = getattr(hf, cls)(getattr(hf, config)(**IDS | options))
    return randomise(model.double().eval(), lambda model: None)


def text() -> dict[str, Tensor]:
    return {"input_ids": ids(), "attention_mask": torch.ones(2, LENGTH, dtype=torch.long)}


def classifier(family: str) -> Example:
    prefix, sizes = CLASSIFIERS[family]
    model = build(f"{prefix}ForSequenceClassification", f"{prefix}Config", sizes)
    sides = SIDES.get(family, ("right",))
    return Example(model, text(), padded={s: padded(s, family in DECODERS) for s in sides})


def next_token(family: str) -> Example:
    """The scores after the last word, asked for by a function of what the model returns."""
    prefix, sizes = CLASSIFIERS[family]
    cls = "GPT2LMHeadModel" if prefix == "GPT2" else f"{prefix}ForCausalLM"
    asked = {"output": lambda out: out.logits[:, -1]}
    left = {
        "left": padded("left", positions=True)
    }  # where the last column is a word of each sample
    return Example(build(cls, f"{prefix}Config", sizes), text(), asked, padded=left)


def seq2seq(family: str) -> Example:
    prefix, sizes = CLASSIFIERS[family]
    model = build(f"{prefix}ForConditionalGeneration", f"{prefix}Config", sizes)
    start = torch.randint(3, WORDS, (2, 3), generator=torch.Generator().manual_seed(2))
    return Example(model, text() | {"decoder_input_ids": start}, {"position": -1})


def mamba() -> Example:
    model = build("MambaForCausalLM", "MambaConfig", MAMBA)
    return Example(model, {"input_ids": ids()}, {"output": lambda out: out.logits[:, -1]})


def entries() -> Iterator[Entry]:
    def entry(name: str, model: str, make: Callable[[], Example]) -> Entry:
        return Entry(name, "text", model, make, name not in NOT_NAMED, name in REFUSED)

    for family, (prefix, _) in CLASSIFIERS.items():
        yield entry(family, f"{prefix}ForSequenceClassification", partial(classifier, family))
    for family in NEXT_TOKEN:
        prefix = CLASSIFIERS[family][0]
        cls = "GPT2LMHeadModel" if prefix == "GPT2" else f"{prefix}ForCausalLM"
        yield entry(f"{family}, next token", cls, partial(next_token, family))
    for family in ("T5", "BART"):
        cls = f"{CLASSIFIERS[family][0]}ForConditionalGeneration"
        yield entry(f"{family}, next token", cls, partial(seq2seq, family))
    yield entry("Mamba, next token", "MambaForCausalLM", mamba)
