"""A recorded forward pass, and the attention, gradient and relevance maps that it yields."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relprop.chain import chain_of, settle_source
from relprop.checks import check_recorded
from relprop.contexts import as_if_alone, evaluating, walking
from relprop.errors import UnsupportedModel
from relprop.inputs import leaves, logits_of
from relprop.layout import check_samples_apart, prefix_of
from relprop.places import Places, places_of
from relprop.recorder import Recorder
from relprop.recording import Recording
from relprop.rules import RuleSet, rule_set

DEFAULT_EPS = 1e-9
_RECORDING = threading.RLock()  # recordings change the model's train/eval flags: one at a time


class Trace:
    """One recorded forward pass: ask it for as many classes and rule sets as you like.

    ``logits`` [B, C]; ``attention`` one map a block, [B, H, N, N]; ``places`` what tokens are
    parts of the input, and where in it they lie; ``grid`` the rows and columns of its patches, None
    where it is no picture; ``prefix`` the number of tokens before the patches (class token,
    distillation token, registers); ``valid`` [B, N], False on padding, or None. Maps are 0 on
    padding. The recorded graph lives as long as the trace, unless it is ``single_use``.
    """

    def __init__(self, logits: Tensor, recording: Recording, valid: Tensor | None = None) -> None:
        if recording.input is None:
            raise UnsupportedModel(
                "no embedding of the ids was seen; accepted: ids that go through "
                "torch.nn.Embedding or torch.nn.functional.embedding, or an input of floats"
            )
        if not recording.attention or not logits.requires_grad:
            raise UnsupportedModel(
                "no attention map was seen between the input and the logits: the model has no "
                "self-attention in torch functions (is it scripted, or run under no_grad?)"
            )
        self._logits, self._recording = logits, recording
        # If True, a backward pass marked ``last`` frees the graph as it goes, so that its memory is
        # reused. A pass after it is autograd's RuntimeError.
        self.single_use = False
        self._walking = threading.RLock()  # a recording takes one backward pass at a time
        with walking(logits.device), torch.device("cpu"):  # whatever the default device is
            check_samples_apart(recording, logits)
            settle_source(recording, logits)
            places = places_of(recording)
            self.prefix = 0 if places is None else prefix_of(recording, places)
            self._chain = chain_of(recording, logits)
        recording.forget_tokens()
        if places is None:
            source = recording.source
            places = Places(
                self.tokens, channels=-1 if source is not None and source.ndim > 2 else None
            )
        self.places = places
        self.valid = None if valid is None else self._of_tokens(valid)
        self._has_padding = self.valid is not None and not bool(self.valid.all())
        if self._has_padding:
            self._rows = self.valid | self._read_by_head()

    @property
    def logits(self) -> Tensor:
        return self._logits.detach()

    @property
    def attention(self) -> tuple[Tensor, ...]:
        """A^b of every block, [B, H, N, N]."""
        return tuple(self._finished(a.detach()) for a in self._recording.attention)

    @property
    def tokens(self) -> int:
        """Tokens of a block, those that are no part of the input among them."""
        return self._recording.attention[-1].shape[-1]

    @property
    def grid(self) -> tuple[int, int] | None:
        sides = self.places.sides
        return sides and tuple(side.count for side in sides)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self._recording.attention)

    @property
    def attention_nbytes(self) -> list[int]:
        """Bytes of the attention map of every block."""
        return [a.nbytes for a in self._recording.attention]

    @property
    def stream_nbytes(self) -> int:
        """Bytes of the tokens after the last block, [B, N, D]; 0 where they were not seen."""
        return 0 if self._chain.stream is None else self._chain.stream.nbytes

    def gradient(
        self, target: Tensor, start_layer: int = 0, *, last: bool = False
    ) -> tuple[Tensor, ...]:
        """G^b = d y_t / d A^b of blocks ``start_layer`` and up, [B, H, N, N]; ``target`` [B].

        ``last``: no backward pass follows; of a recording of a single use it frees the graph.
        """
        found = self._walk_back(self._maps(start_layer), target, None, 0.0, last)
        return tuple(self._finished(g) for g in found)

    def relevance(
        self,
        target: Tensor,
        start_layer: int = 0,
        rules: str | RuleSet = "paper",
        eps: float = DEFAULT_EPS,
        *,
        last: bool = False,
    ) -> tuple[Tensor, ...]:
        """R^b, the relevance of A^b for class ``target`` [B], from ``start_layer`` up.

        ``last`` as in :meth:`gradient`.
        """
        found = self._walk_back(self._maps(start_layer), target, rules, eps, last)
        return tuple(self._finished(r) for r in found)

    def not_finite(
        self,
        target: Tensor,
        rules: str | RuleSet = "paper",
        eps: float = DEFAULT_EPS,
    ) -> str | None:
        """Where logits, relevance or gradient are first not finite; None if they are everywhere.

        It takes backward passes that look at every value: for when a map has turned out not to be.
        """
        if not self.logits.isfinite().all():
            return "the forward pass: the logits are not finite"
        with self._walking:
            self._recording.backward.culprits = culprits = []
            try:
                self._walk_back(self._maps(0), target, rules, eps)
            finally:
                self._recording.backward.culprits = None
        if culprits:
            return f"the relevance rule of {culprits[0]}"
        finite = all(g.isfinite().all() for g in self.gradient(target))
        return None if finite else "the gradient of the attention"

    def source_relevance(
        self,
        target: Tensor,
        rules: str | RuleSet = "paper",
        eps: float = DEFAULT_EPS,
        *,
        last: bool = False,
    ) -> Tensor:
        """Relevance of the pixels [B, C, H, W], of the embeddings [B, N, D] or of other numbers.

        ``last`` as in :meth:`gradient`.
        """
        if self._recording.source is None:
            raise UnsupportedModel("neither a patch embedding nor an embedding layer was seen")
        return self._walk_back([self._recording.source], target, rules, eps, last)[0]

    def readout(
        self, target: Tensor, rules: str | RuleSet = "paper", eps: float = DEFAULT_EPS
    ) -> Tensor:
        """The share of the output's relevance that each token of the last block holds, [B, N].

        Rows of a map are weighted by it. One-hot at the class token where the head reads that
        alone, the two halves of a distilled model, spread out where tokens are averaged. Costs no
        more than the head: the walk stops at the last block's output.
        """
        if self._chain.stream is None:
            raise UnsupportedModel(self._chain.no_stream)
        held = self._walk_back([self._chain.stream], target, rules, eps)[0].sum(dim=-1).abs()
        return torch.nan_to_num(held / held.sum(dim=-1, keepdim=True))

    def check_tokens(self) -> None:
        """Raises UnsupportedModel where the tokens of a block are not those of the first."""
        if self._chain.no_tokens:
            raise UnsupportedModel(self._chain.no_tokens)

    def check_chain(self) -> None:
        """Raises UnsupportedModel where the maps of blocks may not be multiplied."""
        if self._chain.no_chain:
            raise UnsupportedModel(self._chain.no_chain)

    def _of_tokens(self, valid: Tensor) -> Tensor | None:
        """A mask of the tokens of a block, [B, N], of one of the input's; None where it is none.

        Tokens of the model's own are no padding. Other masks, such as [N, N], say which token may
        attend to which. Where there are as many samples as tokens the attention tells: nothing
        attends to padding.
        """
        attention = self._recording.attention[0].detach()
        batch, rows = self._recording.batch_size, valid.shape[0]
        is_square = rows == valid.shape[1]
        if valid.shape[1] == self.places.count:
            after = self.tokens - self.prefix - self.places.count
            valid = F.pad(valid, (self.prefix, after), value=True)
        if valid.shape != (batch, self.tokens):
            return None
        attended = attention.unflatten(0, (batch, -1)).flatten(1, -2).sum(dim=1)  # [B, N]
        return None if is_square and bool(attended[~valid].any()) else valid

    def _read_by_head(self) -> Tensor:
        """True for the tokens of the last block that the logits depend on, bool [B, N]."""
        stream = self._chain.stream
        if stream is None or stream.shape[:2] != self.valid.shape:
            return torch.zeros_like(self.valid)
        # Other weights for each class: of probabilities the sum is a constant.
        weights = torch.linspace(1, 2, self._logits.shape[1]).to(self._logits)
        found = self._walk([stream], weights.expand_as(self._logits), None, 0.0)
        return (found[0] != 0).any(dim=-1)

    def _maps(self, start_layer: int) -> list[Tensor]:
        self.check_start_layer(start_layer)
        return self._recording.attention[start_layer:]

    def check_start_layer(self, start_layer: int) -> None:
        if not 0 <= start_layer < self.depth:
            raise ValueError(f"start_layer is {start_layer}; accepted: 0 to {self.depth - 1}")

    def _walk_back(
        self,
        inputs: list[Tensor],
        target: Tensor,
        rules: str | RuleSet | None,
        eps: float,
        last: bool = False,
    ) -> tuple[Tensor, ...]:
        """One pass from y_t back to ``inputs``, of the gradient (``rules`` None) or relevance."""
        classes = torch.arange(self._logits.shape[1], device=target.device)
        start = (classes == target[:, None]).to(self._logits.dtype)
        return self._walk(inputs, start, rules, eps, last)

    def _walk(
        self,
        inputs: list[Tensor],
        start: Tensor,
        rules: str | RuleSet | None,
        eps: float,
        last: bool = False,
    ) -> tuple[Tensor, ...]:
        """As :meth:`_walk_back`, from ``start`` [B, C] at the logits."""
        backward = self._recording.backward
        with self._walking, walking(self._logits.device):  # a rule may need a graph of its own
            backward.rules, backward.eps = None if rules is None else rule_set(rules), eps
            keep = not (last and self.single_use)
            found = torch.autograd.grad(
                self._logits, inputs, start, retain_graph=keep, allow_unused=True
            )
        return tuple(
            torch.zeros_like(x) if f is None else f for x, f in zip(inputs, found, strict=True)
        )

    def _finished(self, maps: Tensor) -> Tensor:
        """[B, H, N, N], from [B*H, N, N] as ``bmm`` has it, and 0 on padding.

        What a token of padding attends to is kept where the head reads that token.
        """
        if maps.ndim == 3:
            maps = maps.unflatten(0, (self._recording.batch_size, -1))
        if not self._has_padding:
            return maps
        return maps * (self._rows[:, None, :, None] & self.valid[:, None, None, :])


def record(
    model: nn.Module, inputs: Tensor | Mapping[str, Tensor], *, largest: int | None = None
) -> Trace:
    """Run ``model`` once, in evaluation, and record what relevance needs.

    ``inputs``: a tensor (pixels [B, C, H, W], ids [B, N], or numbers of another shape, such as
    vectors [B, N] and sequences of vectors [B, N, F]) or a mapping of keyword tensors; an
    ``attention_mask`` [B, N] among them says which tokens are padding. The model returns logits
    [B, C], alone, as ``.logits``, or as the only [B, C] of a tuple. Its parameters, gradients and
    train/eval state are left as they were. It runs in the parameters' own precision: autocast is
    off, the model's own too. ``largest``: bytes; the recording breaks off (TooLarge) at the first
    tensor in a CPU's memory that has more.

    >>> import relprop, timm, torch
    >>> trace = relprop.record(timm.create_model("test_vit"), torch.rand(1, 3, 160, 160))
    >>> trace.depth, trace.grid, trace.attention[0].shape
    (6, (10, 10), torch.Size([1, 2, 101, 101]))
    """
    return Trace(*forward(model, inputs, largest))


def forward(
    model: nn.Module, inputs: Tensor | Mapping[str, Tensor], largest: int | None = None
) -> tuple[Tensor, Recording, Tensor | None]:
    """What a :class:`Trace` is made of."""
    keywords = dict(inputs) if isinstance(inputs, Mapping) else {"": inputs}
    device = next((x.device for x in keywords.values() if isinstance(x, Tensor)), "cpu")
    with _RECORDING, as_if_alone(device), torch.enable_grad():
        keywords, numbers, batch_size = leaves(keywords)
        with (
            evaluating(model),
            torch.compiler.set_stance("force_eager"),
            Recorder(batch_size, largest, torch.device(device).type) as recorder,
        ):
            recording = recorder.recording
            recording.input = numbers[0] if numbers else None
            recording.has_others = len(numbers) > 1
            output = model(keywords[""]) if "" in keywords else model(**keywords)
        logits = recorder.current(logits_of(output))
        if logits.requires_grad:
            check_recorded([logits])
    if logits.dtype in (torch.float16, torch.bfloat16):
        warnings.warn(
            f"the model is in {logits.dtype}, where maps by relevance of both signs (lrp) are lost "
            "to rounding, and others suffer; explain a copy of it: copy.deepcopy(model).float()",
            stacklevel=3,
        )
    mask = keywords.get("attention_mask")
    valid = mask.bool() if mask is not None and mask.ndim == 2 else None
    return logits, recording, valid
