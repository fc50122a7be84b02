"""What a user says of a module that is not ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from lightning_modules.utils.options import check_option


@dataclass(frozen=True)
class Told:
    """What a user says of a module that is not ours; what is None is found out.

    Attributes:
        model: the attribute that is the classifier, dotted, or ``"forward"``: the module itself.
        inputs: makes of a batch what the classifier is called with, a tensor or keywords.
        labels: makes of a batch the labels, [B]; may give None.
        class_names: in the order of the labels.
        normalisation: mean and std that pictures were normalised with.
        tokenizer: Hugging Face's, which made the ids of the texts.
    """

    model: str | None = None
    inputs: Callable[[Any], Any] | None = None
    labels: Callable[[Any], Any] | None = None
    class_names: Sequence[str] | None = None
    normalisation: tuple[Any, Any] | None = None
    tokenizer: Any = None

    def __post_init__(self) -> None:
        a_function = "a function of a batch, or None"
        names = self.class_names
        is_list = isinstance(names, Sequence) and not isinstance(names, str)
        pair, is_tokenizer = self.normalisation, isinstance(self.tokenizer, PreTrainedTokenizerBase)
        is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2
        for name, fits, accepted in (
            ("model", isinstance(self.model, str), "the name of an attribute, or None"),
            ("inputs", callable(self.inputs), a_function),
            ("labels", callable(self.labels), a_function),
            (
                "class_names",
                is_list and all(isinstance(x, str) for x in names),
                "a list of names, or None",
            ),
            ("normalisation", is_pair, "(mean, std), or None"),
            ("tokenizer", is_tokenizer, "a tokenizer of Hugging Face's, loaded, or None"),
        ):
            value = getattr(self, name)
            check_option(name, value, value is None or fits, accepted)
