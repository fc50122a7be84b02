"""The equations: how what arrives at an operation's output becomes that of its inputs.

:mod:`relprop.rules.linear` has the relevance rules of linear maps, :mod:`relprop.rules.relevance`
those of sums and products, and the rule sets of the paper, of the published LRP baseline and of
epsilon; :mod:`relprop.rules.agf` those that the gradient guides; :mod:`relprop.rules.gradient` the
corrections by which a gradient becomes AttnLRP or CP-LRP; :mod:`relprop.rules.weights` how the
weight of tokens moves between attention maps.
"""

from relprop.rules.agf import agf
from relprop.rules.gradient import GRADIENT, Corrections, Own, attnlrp, cp_lrp, gamma_rule
from relprop.rules.guided import At, Guided, wants_gradient
from relprop.rules.linear import (
    Rule,
    divide,
    linear_epsilon,
    linear_signwise,
    linear_z_plus,
    linear_z_plus_bf16,
    signwise,
    z_box,
    z_plus,
)
from relprop.rules.relevance import EPSILON as epsilon
from relprop.rules.relevance import (
    LRP,
    PAPER,
    add_conserving,
    add_epsilon,
    epsilon_of,
    matmul_uniform,
)
from relprop.rules.sets import RULE_SETS, RuleSet, in_precision, rule_set

__all__ = [
    "GRADIENT",
    "LRP",
    "PAPER",
    "RULE_SETS",
    "At",
    "Corrections",
    "Guided",
    "Own",
    "Rule",
    "RuleSet",
    "add_conserving",
    "add_epsilon",
    "agf",
    "attnlrp",
    "cp_lrp",
    "divide",
    "epsilon",
    "epsilon_of",
    "gamma_rule",
    "in_precision",
    "linear_epsilon",
    "linear_signwise",
    "linear_z_plus",
    "linear_z_plus_bf16",
    "matmul_uniform",
    "rule_set",
    "signwise",
    "wants_gradient",
    "z_box",
    "z_plus",
]

# Names of version 0.1.0.
_RENAMED = {
    "add_keeping_shares": add_conserving,
    "add_proportional": add_epsilon,
    "conv_z_box": z_box,
    "linear_signs_apart": linear_signwise,
    "linear_z_box": z_box,
    "matmul_halves": matmul_uniform,
    "proportional": epsilon_of,
}


def __getattr__(name: str):
    if name in _RENAMED:
        return _RENAMED[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
