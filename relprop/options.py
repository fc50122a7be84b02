"""What every explanation method takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Literal

from torch import Tensor

from relprop.asked import check_rules
from relprop.errors import check_number, described
from relprop.rules import RuleSet, rule_set
from relprop.trace import DEFAULT_EPS


@dataclass(frozen=True)
class Options:
    """What every method takes; a method that has no use for one of them ignores it.

    ``start_layer``: first block of the product, by the depth of its attention map. ``rules``: a
    rule set or its name; None is the method's own. ``eps``: the stabiliser, 0 for exact division.
    ``normalize_rows``: rows of I + A-bar sum to 1 in the product methods (the paper's choice for
    BERT). ``precision``: that of the model, or "bf16", in which the products of the paper's z+ rule
    are faster; maps hardly change. No other rule is affected, neither those of ``lrp`` nor your
    own. ``level``: "tokens" or "input", where attnlrp and cp_lrp are read. ``lm_head``: of
    decoded_saliency, a function from states [B, N, D] to logits [B, N, V] of the vocabulary; None:
    the model's own, or its word embeddings.
    """

    start_layer: int = 0
    rules: str | RuleSet | None = None
    eps: float = DEFAULT_EPS
    normalize_rows: bool = False
    precision: Literal["bf16"] | None = None
    level: Literal["tokens", "input"] = "tokens"
    lm_head: Callable[[Tensor], Tensor] | str | None = None

    def __post_init__(self) -> None:
        if self.precision not in (None, "bf16"):
            raise ValueError(f"precision is {self.precision!r}; accepted: None (the model's), bf16")
        if self.level not in ("tokens", "input"):
            raise ValueError(f"level is {self.level!r}; accepted: tokens, input")
        if not isinstance(self.normalize_rows, bool):
            given = described(self.normalize_rows)
            raise ValueError(f"normalize_rows is {given}; accepted: True, False")
        if not isinstance(self.start_layer, Integral) or isinstance(self.start_layer, bool):
            given = described(self.start_layer)
            raise ValueError(f"start_layer is {given}; accepted: a whole number")
        check_number("eps", self.eps)
        check_rules(self.rules)

    @property
    def ruled(self) -> RuleSet:
        """The rule set; of a call of a :class:`Method` it is that which the method uses."""
        return rule_set("paper" if self.rules is None else self.rules)
