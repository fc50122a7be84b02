"""What is known of an explanation method, and the registry of all."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

from torch import Tensor

from relprop.errors import described
from relprop.options import Options
from relprop.registry import Registry
from relprop.rules import in_precision, rule_set
from relprop.trace import Found, Trace

Function = Callable[[Trace, Tensor, Options], Found]


@dataclass(frozen=True)
class Method:
    """What is known of an explanation method. Call it as its function is called.

    Attributes:
        name: under which it is found.
        function: (trace, target [B], options) -> relevance of all tokens of a block [B, N]; or of
            the input's alone, [B, ``trace.places.count``]; or of the pixels, [B, H, W]. By name
            where there are several sources.
        rules: name of the rule set that it uses unless told otherwise.
        signed: negative relevance speaks against the class. It is drawn in diverging colours.
        pixels: a picture's relevance is of its pixels, not of its patches, whatever the model and
            the options.
        product: a product of I + C over blocks, whose I puts a token's relevance on itself.
        ablation: a part of another method, to see what the other part is for.
        diagnosis: it is no map of reasons; who evaluates all methods does not mean it.
        texts: of texts alone.
        pooled: of models that pool their tokens by attention alone.
        frees_graph: tells the trace which of its backward passes is the last.
        conserves: its relevance is to add up to the output explained, but for what biases and
            tokens that are no part of the input take.
    """

    name: str
    function: Function
    rules: str = "paper"
    signed: bool = False
    pixels: bool = False
    product: bool = False
    ablation: bool = False
    frees_graph: bool = False
    diagnosis: bool = False
    texts: bool = False
    pooled: bool = False
    conserves: bool = False

    @property
    def about(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    def __call__(self, trace: Trace, target: Tensor, options: Options) -> Found:
        trace.check_start_layer(options.start_layer)
        chosen = rule_set(self.rules if options.rules is None else options.rules)
        chosen = in_precision(chosen, options.precision)
        found = self.function(trace, target, replace(options, rules=chosen))
        for x in found.values() if isinstance(found, dict) else [found]:
            if not isinstance(x, Tensor) or x.ndim not in (2, 3) or len(x) != len(target):
                raise ValueError(
                    f"the method {self.name!r} returns {described(x)}; accepted: relevance of "
                    "tokens [B, N] or of pixels [B, H, W]; of several sources a dict of these"
                )
        return found


METHODS: Registry[Method] = Registry("method")


def method(name: str, rules: str = "paper", **flags: bool) -> Callable[[Function], Function]:
    """Register a function as a :class:`Method`, which says what the arguments are.

    ``flags`` are its attributes that are False unless they are given here, such as ``signed=True``.
    A TypeError where it has none of that name.

    Several classes are explained at once under ``torch.vmap``, whose limits hold for the function;
    with ``max_memory`` a trace is of a part of the batch.

    >>> @method("gradient", signed=True)
    ... def gradient(trace, target, options):
    ...     '''The mean gradient of the attention that each token receives.'''
    ...     return trace.gradient(target)[-1].mean(dim=(1, 2))
    >>> METHODS.pop("gradient").about
    'The mean gradient of the attention that each token receives.'
    """
    rule_set(rules)  # a ValueError where there is none
    accepted = [field.name for field in fields(Method) if field.default is False]
    for flag in flags:
        if flag not in accepted:
            raise TypeError(f"no flag of a method: {flag!r}; accepted: {', '.join(accepted)}")

    def add(function: Function) -> Function:
        METHODS.add(name, Method(name, function, rules, **flags), function)
        return function

    return add
