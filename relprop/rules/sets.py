"""Rule sets: which rule each operation has, for one of the walks back through a recording."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from relprop.rules.agf import AGF, AGF_WITHOUT_GRADIENT
from relprop.rules.gradient import ATTNLRP, CP_LRP, Corrections
from relprop.rules.guided import Guided
from relprop.rules.linear import Rule, linear_z_plus, linear_z_plus_bf16
from relprop.rules.relevance import EPSILON, LRP, PAPER

Rules = Mapping[str, Rule] | Callable[[str, int, int], Rule | None]
"""Rules by operation; or a function (operation, block, depth) -> rule, ``block`` being the number
of attention maps before the operation and ``depth`` that of all."""
RuleSet = Rules | Corrections | Guided

RULE_SETS: dict[str, RuleSet] = {
    "paper": PAPER,
    "lrp": LRP,
    "epsilon": EPSILON,
    "attnlrp": ATTNLRP,
    "cp_lrp": CP_LRP,
    "agf": AGF,
    "agf_without_gradient": AGF_WITHOUT_GRADIENT,
}


def find_rule(rules: Rules, operation: str, block: int, depth: int) -> Rule | None:
    """The rule of an operation; None where the set has none."""
    if isinstance(rules, Mapping):
        return rules.get(operation)
    return rules(operation, block, depth)


def shares_out(rules: Rules, depth: int) -> bool:
    """Whether a rule shares relevance out in each sample, as :func:`add_conserving` does.

    Then relevance is not linear in what it begins with: that of y_t - y_a, which begins with a sum
    of 0, is 0 wherever it has passed such a rule.
    """
    names = rules if isinstance(rules, Mapping) else ("add",)
    places = ((name, block) for name in names for block in range(depth + 1))
    found = (find_rule(rules, name, block, depth) for name, block in places)
    return any(getattr(rule, "per_sample", False) for rule in found)


def check_rule(rule: object, operation: str, carried: str) -> None:
    """Raise ValueError where the rule of an operation is none, or not for what a walk carries.

    ``carried``: "relevance" or "gradient".
    """
    other = getattr(rule, "carries", carried)
    if callable(rule) and other == carried:
        return
    what = f"of the {other}" if callable(rule) else f"no rule but a {type(rule).__name__}"
    accepted = "rules of relevance, such as those of relprop.rules.LRP"
    if carried == "gradient":
        accepted = "corrections, such as those of relprop.rules.attnlrp().rules"
    raise ValueError(
        f"rules: that of '{operation}' is {what}, in a set of the {carried}; accepted: {accepted}; "
        "a set of corrections of the gradient is made by relprop.rules.Corrections(rules), a "
        "mapping or a function"
    )


def rule_set(rules: str | RuleSet) -> RuleSet:
    """The rule set of a name; a rule set is its own."""
    if not isinstance(rules, str):
        return rules
    if rules not in RULE_SETS:
        raise ValueError(f"rules is {rules!r}; accepted: {', '.join(RULE_SETS)}, or a rule set")
    return RULE_SETS[rules]


def in_precision(rules: RuleSet, precision: str | None) -> RuleSet:
    """The rule set with the products of its z+ rule in bfloat16, if ``precision`` is "bf16".

    But for those after the last attention map: there all relevance is in the tokens that the head
    reads, often a single one. Sums have so few terms that rounding may turn the sign of a residual
    stream's relevance, and with it the map.
    """
    if precision != "bf16" or isinstance(rules, Corrections | Guided):
        return rules

    def faster(operation: str, block: int, depth: int) -> Rule | None:
        rule = find_rule(rules, operation, block, depth)
        return linear_z_plus_bf16 if rule is linear_z_plus and block < depth else rule

    return faster
