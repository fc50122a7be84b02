"""The tokens of a block: which of them are the input's, and which are padding."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from relprop.errors import UnsupportedModel
from relprop.recording.record import AttentionMap
from relprop.recording.tags import tag
from relprop.rules.weights import to_values
from relprop.walks.ends import Ends
from relprop.walks.layout import prefix_of
from relprop.walks.maps import check_maps
from relprop.walks.places import Places
from relprop.walks.starts import Starts


@dataclass
class Tokens:
    """Those of the last attention map whose keys are the input's; ``mask``: the input's, [B, N].

    Maps after it are between tokens of the model's own, such as learned queries that have pooled.
    """

    ends: Ends
    mask: Tensor | None

    @functools.cached_property
    def starts(self) -> Starts:
        """What the head reads, where all attention maps are of whole samples."""
        starts = Starts(self.ends.backward)
        check_maps(self.ends.backward, starts)
        return starts

    @property
    def maps(self) -> list[AttentionMap]:
        """Attention maps that can be read."""
        _ = self.starts  # which refuses others
        return self.ends.recording.maps

    @property
    def last(self) -> AttentionMap:
        return next((x for x in reversed(self.maps) if x.leads_to_input), self.maps[-1])

    @property
    def count(self) -> int:
        return self.last.tensor.shape[-1]

    def only_source(self) -> str:
        names = tuple(self.ends.sources)
        if len(names) > 1:
            raise UnsupportedModel(
                f"the model has {len(names)} sources ({', '.join(names)}), and this is of one; "
                "accepted: a model of one input; or a method that has a map for each, such as "
                "transformer_attribution and attnlrp"
            )
        return names[0]

    @property
    def places(self) -> Places:
        """Where the tokens of the only source lie."""
        name = self.only_source()
        if (places := self.ends.places_of(name)) is not None:
            return places
        is_sequence = self.ends.sources[name].tensor.ndim > 2
        return Places(self.count, channels=-1 if is_sequence else None)

    @functools.cached_property
    def prefix(self) -> int:
        """Tokens before those of the input: class token, registers, ..."""
        name, places, recording = self.only_source(), self.places, self.ends.recording
        last, what = self.last, f"{places.count} tokens of the input"
        if places.sides is not None:
            rows, columns = (side.count for side in places.sides)
            what = f"{rows} x {columns} patches, row by row,"

        def transport(tokens: Tensor) -> Tensor:
            if last.values is None:
                return torch.zeros(places.count)
            (edge, shape), (_, output, product) = last.values, last.products[0]
            columns = tokens.to(self.ends.backward.logits).expand(recording.batch_size, -1)
            weights = to_values(product, columns, output, shape)
            return self.ends.transported([edge], [weights])[name][0].cpu()

        return prefix_of(places.count, self.count, places.sides is not None, transport, what)

    @functools.cached_property
    def valid(self) -> Tensor | None:
        """False on padding, [B, N]; None without a mask of tokens.

        Tokens of the model's own are no padding. Other masks, such as [N, N], say which token may
        attend to which. Where there are as many samples as tokens the attention tells: nothing
        attends to padding.
        """
        valid, recording = self.mask, self.ends.recording
        if valid is None or not recording.maps or len(recording.sources) > 1:
            return None
        is_square = valid.shape[0] == valid.shape[1]
        if valid.shape[1] != self.count and valid.shape[1] == self.places.count:
            try:
                after = self.count - self.prefix - self.places.count
            except UnsupportedModel:  # tokens of a block are others than those of the input
                return None
            valid = F.pad(valid, (self.prefix, after), value=True)
        if valid.shape != (recording.batch_size, self.count):
            return None
        first = recording.maps[0]
        attended = first.canonical(first.tensor.detach(), len(valid)).flatten(1, -2).sum(dim=1)
        return None if is_square and bool(attended[~valid].any()) else valid

    @functools.cached_property
    def rows(self) -> Tensor | None:
        """The tokens that are no padding, or that the logits depend on, bool [B, N]."""
        valid, backward = self.valid, self.ends.backward
        if valid is None:
            return None
        read = self.starts.tensors
        if len(read) != 1 or read[0].shape[:2] != valid.shape or not self._are_input(read[0]):
            return valid
        # Other weights for each class: of probabilities the sum is a constant.
        logits = backward.logits
        weights = torch.linspace(1, 2, logits.shape[1]).to(logits).expand_as(logits)
        (found,) = backward.pull([logits], [weights], read, None)
        return valid | (found != 0).any(dim=-1)

    @staticmethod
    def _are_input(x: Tensor) -> bool:
        """Whether tokens that the head reads are of a source."""
        state = tag(x).state
        return state is not None and bool(state.home)

    def settle(self) -> None:
        """Find out, before the graph is freed, what has to be known of it afterwards."""
        _ = self.starts, self.rows

    def without_padding(self, x: Tensor, map: AttentionMap) -> Tensor:
        """What is of the shape of a map, [B, H, n, m], with 0 on padding.

        What a token of padding attends to is kept where the head reads that token. Queries and keys
        of the model's own are no padding.
        """
        if self.valid is None or self.rows is None or not map.leads_to_input:
            return x
        kept = self.valid[:, None, None, :]
        if map.leads_from_input:
            kept = kept & self.rows[:, None, :, None]
        return x * kept if x.shape[-1] == self.count and kept.shape[-2] in (1, x.shape[-2]) else x
