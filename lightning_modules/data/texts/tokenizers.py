"""Tokenizers: trained on the data, or a published model's; into a checkpoint and out of it."""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordPieceTrainer
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import cached_file

from lightning_modules.utils.checkpoint_files import find_checkpoint, load_data
from lightning_modules.utils.errors import InputError, as_input_error, short_message
from lightning_modules.utils.hub import locate
from lightning_modules.utils.options import check_option, refusal, show

SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, pairs: bool = False
) -> PreTrainedTokenizerFast:
    """A lower-casing WordPiece tokenizer like BERT's, of the most useful pieces of the texts.

    The same texts give the same tokenizer, in any process. ``pairs``: it parts two texts, too.

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
        pair=f"{cls_token} $A {sep_token} $B:1 {sep_token}:1" if pairs else None,
        special_tokens=[(token, vocab[token]) for token in (cls_token, sep_token)],
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)


def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """The tokenizer that ``data.tokenizer`` names: a hub id, a folder or ``package:NAME/FOLDER``.

    Or that of a run of train.py, by its folder or one of its checkpoints.

    Raises:
        ValueError: there is none, or it is not one that :func:`read_tokenizer` takes.
    """
    if (Path(name) / "checkpoints").is_dir() or Path(name).suffix == ".ckpt":
        accepted = "a run of train.py on texts"
        trained = load_data(find_checkpoint(name, "data.tokenizer"), f"accepted: {accepted}")
        with as_input_error(f"data.tokenizer {name}: it has no tokenizer", accepted):
            return tokenizer_from_config(trained["hyper_parameters"]["input_config"])
    try:
        return read_tokenizer(locate(name))
    except ValueError as error:
        accepted = (
            "null, or the hub id or folder of a model with a fast tokenizer (tokenizer.json) that "
            f"can pad ({error})"
        )
        raise ValueError(refusal("tokenizer", show(name, most=4096), accepted)) from error


def read_tokenizer(source: str, pads: bool = True) -> PreTrainedTokenizerFast:
    """The fast tokenizer that a hub id or a local folder has.

    ``pads``: it must have a token to pad with. Else one that ends texts may stand in for it.

    Raises:
        InputError: there is none, it cannot pad, or it is a slow one, which knows no character
            offsets. Says only what is wrong.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        saved = saved_kind(source)
    except Exception as error:  # transformers raises whatever a broken file makes it raise
        raise InputError(f"no tokenizer can be read there: {short_message(error)}") from error
    if not tokenizer.is_fast:
        raise InputError(f"its tokenizer is a slow one, {type(tokenizer).__name__}")
    if not knows_words(tokenizer):
        raise InputError("it has no tokenizer of its own: no file has a vocabulary with any word")
    read = type(tokenizer.backend_tokenizer.model).__name__
    if saved not in (None, read):
        raise InputError(
            f"its tokenizer.json is a {saved}, which transformers takes for the {read} of a "
            f"{type(tokenizer).__name__}, as tokenizer_config.json names no other tokenizer_class"
        )
    if tokenizer.pad_token is None and not pads:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise InputError("its tokenizer has no token to pad with")
    return tokenizer


def saved_kind(source: str) -> str | None:
    """What a tokenizer.json is: BPE, Unigram, WordPiece, ...; None where there is none.

    transformers builds the tokenizer that a model's class has of its vocabulary, whatever it is.
    """
    try:
        path = cached_file(source, "tokenizer.json")
    except OSError:
        return None
    return json.loads(Path(path).read_text(encoding="utf-8"))["model"].get("type")


def knows_words(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether a tokenizer has any token for what stands in a text.

    Where there are no files of a tokenizer, transformers makes one up of the few tokens that its
    class begins with, and every word is an unknown one.
    """
    try:
        made_up = type(tokenizer)().get_vocab()
    except Exception:  # a class that cannot do without files
        made_up = {}
    special = {*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens}
    return bool(tokenizer.get_vocab().keys() - made_up.keys() - special)


def vocabulary_size(tokenizer: PreTrainedTokenizerFast) -> int:
    """How many rows of embeddings the ids of a tokenizer take, those of added tokens included."""
    return 1 + max(tokenizer.get_vocab().values())


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
