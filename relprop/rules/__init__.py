"""The equations: how what arrives at an operation's output becomes that of its inputs.

:mod:`relprop.rules.relevance` has the relevance rules of the paper, of the published LRP baseline
and of epsilon; :mod:`relprop.rules.gradient` the corrections by which a gradient becomes AttnLRP or
CP-LRP; :mod:`relprop.rules.weights` how the weight of tokens moves between attention maps.
"""

from relprop.rules.gradient import (
    GRADIENT,
    Corrections,
    Own,
    attnlrp,
    cp_lrp,
    gamma_conv,
    gamma_linear,
)
from relprop.rules.relevance import EPSILON as epsilon
from relprop.rules.relevance import (
    LRP,
    PAPER,
    Rule,
    add_keeping_shares,
    add_proportional,
    conv_z_box,
    divide,
    linear_signs_apart,
    linear_z_box,
    linear_z_plus,
    linear_z_plus_bf16,
    matmul_halves,
    nothing,
    proportional,
    z_box,
)
from relprop.rules.sets import RULE_SETS, RuleSet, in_precision, rule_set

__all__ = [
    "GRADIENT",
    "LRP",
    "PAPER",
    "RULE_SETS",
    "Corrections",
    "Own",
    "Rule",
    "RuleSet",
    "add_keeping_shares",
    "add_proportional",
    "attnlrp",
    "conv_z_box",
    "cp_lrp",
    "divide",
    "epsilon",
    "gamma_conv",
    "gamma_linear",
    "in_precision",
    "linear_signs_apart",
    "linear_z_box",
    "linear_z_plus",
    "linear_z_plus_bf16",
    "matmul_halves",
    "nothing",
    "proportional",
    "rule_set",
    "z_box",
]
