"""Tokenizers: trained on the data, or a published model's; into a checkpoint and out of it."""

from collections.abc import Iterable

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordPieceTrainer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lightning_modules.data.base import check_option
from lightning_modules.pretrained import locate

SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A lower-casing WordPiece tokenizer like BERT's, of the most useful pieces of the texts.

    The same texts give the same tokenizer, in any process.

    Raises:
        ValueError: `vocab_size` is less than what the special tokens and the characters need.
    """
    normalizer = BertNormalizer(lowercase=True)
    texts = [normalizer.normalize_str(text) for text in texts]
    characters = sorted(set().union(*texts) - set(" "))
    # The trainer numbers the pieces "##a", "##b", ... in the order of a hash table with a random
    # key, but what it is given as special tokens in the order given.
    first = [*SPECIAL_TOKENS.values(), *(f"##{character}" for character in characters)]
    least = len(first) + len(characters)
    check_option(
        "vocab_size",
        vocab_size,
        vocab_size >= least,
        f"at least {least}, for the special tokens and the characters of the training texts",
    )
    learner = Tokenizer(WordPiece(unk_token=SPECIAL_TOKENS["unk_token"]))
    learner.pre_tokenizer = BertPreTokenizer()
    learner.train_from_iterator(
        texts, WordPieceTrainer(vocab_size=vocab_size, special_tokens=first, show_progress=False)
    )
    vocab = learner.get_vocab()

    tokenizer = Tokenizer(WordPiece(vocab, unk_token=SPECIAL_TOKENS["unk_token"]))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = BertPreTokenizer()
    cls_token, sep_token = SPECIAL_TOKENS["cls_token"], SPECIAL_TOKENS["sep_token"]
    tokenizer.post_processor = TemplateProcessing(
        single=f"{cls_token} $A {sep_token}",
        special_tokens=[(token, vocab[token]) for token in (cls_token, sep_token)],
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)


def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """The fast tokenizer that a hub id, a local folder or ``package:NAME/FOLDER`` has.

    Raises:
        ValueError: there is none, or it is a slow one, which knows no character offsets.
    """
    accepted = "null, or the hub id or folder of a model with a fast tokenizer (tokenizer.json)"
    try:
        tokenizer = AutoTokenizer.from_pretrained(locate(name), trust_remote_code=False)
    except Exception as error:  # transformers raises whatever a broken file makes it raise
        reason = " ".join(str(error).split())
        raise ValueError(
            f"tokenizer={name!r} is not accepted: tokenizer must be {accepted} ({reason})"
        ) from error
    check_option("tokenizer", name, tokenizer.is_fast, accepted)
    check_option("tokenizer", name, tokenizer.pad_token is not None, f"{accepted} that can pad")
    return tokenizer


def input_config_of(
    tokenizer: PreTrainedTokenizerFast, max_length: int, overlap: int | None
) -> dict:
    """A TextDataModule's `input_config`, in plain types."""
    return {
        "tokenizer": tokenizer.backend_tokenizer.to_str(),
        "special_tokens": {
            name: token
            for name, token in tokenizer.special_tokens_map.items()
            if isinstance(token, str)
        },
        "max_length": max_length,
        "overlap": overlap,
    }


def tokenizer_from_config(input_config: dict) -> PreTrainedTokenizerFast:
    """The tokenizer of a TextDataModule's `input_config`; pads and truncates on the right."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(input_config["tokenizer"]),
        **input_config["special_tokens"],
    )
