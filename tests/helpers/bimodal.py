"""The published generators for models of two sets of tokens, matrix by matrix, in plain torch.

"Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder Transformers"
(Chefer, Gur, Wolf; ICCV 2021), section 3, of one sample. A map is a pair (A, G) of attention and
gradient [heads, queries, keys]; maps come in the order of the model's layers. Nothing here imports
``relprop``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Map = tuple[Tensor, Tensor]


def positive(map: Map) -> Tensor:
    """E_h (G * A)^+ (eq. 5)."""
    A, G = map
    return (G * A).clamp(min=0).mean(0)


def attention_alone(map: Map) -> Tensor:
    """E_h A."""
    return map[0].mean(0)


def gradcam(map: Map) -> Tensor:
    """Heads weighted by their mean gradient."""
    A, G = map
    return (A * G.mean((1, 2), keepdim=True)).mean(0).clamp(min=0)


def normalised(R: Tensor) -> Tensor:
    """eq. 8, 9, row by row: what a token has gathered sums to 1, beside its own 1."""
    hat = torch.eye(len(R), dtype=R.dtype)
    for i in range(len(R)):
        gathered = R[i].clone()
        gathered[i] -= 1
        if gathered.sum() != 0:
            hat[i] += gathered / gathered.sum()
    return hat


@dataclass
class Sets:
    """R_ss and R_sq of two sets of tokens. The options are the ablations of the paper."""

    ss: Tensor
    sq: Tensor
    qq: Tensor
    qs: Tensor
    normalise: bool = True
    self_in_rule_10: bool = True

    @classmethod
    def of_sizes(cls, s: int, q: int, **options: bool) -> Sets:
        def zeros(n: int, m: int) -> Tensor:
            return torch.zeros(n, m, dtype=torch.float64)

        return cls(
            torch.eye(s).double(), zeros(s, q), torch.eye(q).double(), zeros(q, s), **options
        )

    def swapped(self) -> Sets:
        return Sets(self.qq, self.qs, self.ss, self.sq, self.normalise, self.self_in_rule_10)

    def self_attention(self, C: Tensor) -> None:
        """Of s (eq. 6, 7)."""
        self.ss, self.sq = self.ss + C @ self.ss, self.sq + C @ self.sq

    def cross_attention(self, C: Tensor) -> tuple[Tensor, Tensor]:
        """What R_ss and R_sq gain where s attends to q (eq. 10, 11)."""
        if not self.self_in_rule_10:
            return C @ self.qs, C
        own, other = (self.ss, self.qq)
        if self.normalise:
            own, other = normalised(own), normalised(other)
        return C @ self.qs, own.T @ C @ other


def one_set(maps: list[Map]) -> Tensor:
    """R of a model of one set of tokens, such as a tower of CLIP."""
    R = torch.eye(maps[0][0].shape[-1]).double()
    for map in maps:
        R = R + positive(map) @ R
    return R


def lxmert(
    text: list[Map], image: list[Map], cross: list[dict[str, Map]], **options: bool
) -> tuple[Tensor, Tensor]:
    """R_tt, R_ti. ``cross``: of each layer ``text_from_image``, ``image_from_text``, ``text``,
    ``image``. Both sides attend to each other at once. Of the last layer only the text is read."""
    t = Sets.of_sizes(text[0][0].shape[-1], image[0][0].shape[-1], **options)
    for map in text:
        t.self_attention(positive(map))
    i = t.swapped()
    for map in image:
        i.self_attention(positive(map))
    t = i.swapped()
    for layer in cross:
        i = t.swapped()
        of_text = t.cross_attention(positive(layer["text_from_image"]))
        of_image = i.cross_attention(positive(layer["image_from_text"]))
        i.ss, i.sq = i.ss + of_image[0], i.sq + of_image[1]
        i.self_attention(positive(layer["image"]))
        ss, sq = t.ss + of_text[0], t.sq + of_text[1]
        t = Sets(ss, sq, i.ss, i.sq, t.normalise, t.self_in_rule_10)
        t.self_attention(positive(layer["text"]))
    return without_class_token(t.ss), t.sq


def without_class_token(R_tt: Tensor) -> Tensor:
    """As published, for what the class token has of itself."""
    R_tt = R_tt.clone()
    R_tt[0, 0] = 0
    return R_tt


def detr(
    encoder: list[Map], decoder: list[tuple[Map, Map]], **options: bool
) -> tuple[Tensor, Tensor]:
    """R_qq, R_qi. ``decoder``: of each layer the maps of queries to queries, and to the image."""
    image = encoder[0][0].shape[-1]
    queries = Sets.of_sizes(decoder[0][0][0].shape[-1], image, **options)
    queries.qq = one_set(encoder)
    for own, cross in decoder:
        queries.self_attention(positive(own))
        # The image has taken nothing of the queries: R_qs is 0, and R_ss gains nothing.
        queries.sq = queries.sq + queries.cross_attention(positive(cross))[1]
    return queries.ss, queries.sq


def last_layer(
    text: Map, text_from_image: Map, weigh: Callable[[Map], Tensor]
) -> tuple[Tensor, Tensor]:
    """R_tt and R_ti of a baseline that looks at the last maps alone."""
    return without_class_token(weigh(text)), weigh(text_from_image)


def rolled_out(maps: list[Map]) -> Tensor:
    """Product of I + E_h A, rows summing to 1."""
    R = torch.eye(maps[0][0].shape[-1]).double()
    for map in maps:
        step = torch.eye(len(R)) + attention_alone(map)
        R = step / step.sum(1, keepdim=True) @ R
    return R


def lxmert_rollout(
    text: list[Map], image: list[Map], cross: list[dict[str, Map]]
) -> tuple[Tensor, Tensor]:
    """R_tt, R_ti: self-attention rolled out, joined by the last cross-attention alone."""
    texts, images = (
        [*maps, *(layer[name] for layer in cross[:-1])]
        for maps, name in ((text, "text"), (image, "image"))
    )
    of_image = attention_alone(cross[-1]["text_from_image"]) @ rolled_out(images)
    R_tt = rolled_out([*texts, cross[-1]["text"]])
    return without_class_token(R_tt), rolled_out(texts).T @ of_image
