"""CrossTransformers: the published implementation's arrays, and what its head does beside."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_modules.models.few_shot_heads import CrossHead, PrototypeHead

FILE = Path(__file__).parents[1] / "reference" / "seeds" / "crosstransformers.npz"
CLASSES, WIDTH = 3, 16


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    with np.load(FILE) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


@pytest.fixture(scope="module")
def queries(reference) -> Tensor:
    """[1, 4, 6, 16]: of each query the positions of the 2 x 3 grid, row by row."""
    return reference["query_features"].flatten(1, 2)[None]


@pytest.fixture(scope="module")
def support(reference) -> tuple[Tensor, Tensor]:
    """Tokens [1, 3, K, 6, 16] and shots [1, 3]: of 7 pictures, not as many a class."""
    labels = reference["support_labels"]
    shots = labels.bincount(minlength=CLASSES)
    padded = torch.full((CLASSES, int(shots.max()), 6, WIDTH), 100.0, dtype=torch.float64)
    for label in range(CLASSES):
        padded[label, : shots[label]] = reference["support_features"][labels == label].flatten(1, 2)
    assert len(shots.unique()) > 1
    return padded[None], shots[None]  # of one episode


@pytest.fixture(scope="module")
def head(reference) -> CrossHead:
    keys, values = reference["W_key_query"], reference["W_value"]
    found = CrossHead(WIDTH, keys.shape[1], values.shape[1]).double()
    found.load_state_dict({"key.weight": keys.T, "value.weight": values.T})
    return found.requires_grad_(False)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_attention_to_the_support_is_that_published(head, queries, support, reference):
    """Over all pictures and positions of a class together, and 0 where a class has no picture."""
    (a,) = head.attention(queries.flatten(1, 2), head.encode(*support)).unflatten(-1, (-1, 6))
    close(a.sum(dim=(-2, -1)), torch.ones(CLASSES, 4 * 6, dtype=torch.float64))
    seen = [0] * CLASSES
    for published, label in zip(
        reference["support_attention"], reference["support_labels"].tolist(), strict=True
    ):
        close(a[label, :, seen[label]].T, published)
        seen[label] += 1
    for label, count in enumerate(seen):
        assert not a[label, :, count:].any()


def test_prototypes_distances_and_logits_are_those_published(head, queries, support, reference):
    encoded, tokens = head.encode(*support), queries.flatten(1, 2)
    t = head.align(tokens, encoded)
    close(t[0].unflatten(1, (4, 6)), reference["query_aligned_prototypes"].flatten(2, 3))
    close(head.attention(tokens, encoded) @ encoded[1], t)
    close(head.apart(tokens, t)[0].unflatten(1, (4, 6)).mean(dim=-1), reference["distances"])
    close(head(queries, encoded)[0], reference["logits"])


def test_pictures_beyond_the_shots_change_nothing(queries, support):
    tokens, shots = support
    torch.manual_seed(0)
    for head in (CrossHead(WIDTH, 8, 8).double(), PrototypeHead()):
        found = head(queries, head.encode(tokens, shots))
        other = tokens.clone()
        for label, count in enumerate(shots[0].tolist()):
            other[:, label, count:] = -7
        close(head(queries, head.encode(other, shots)), found)
        each = [
            head(queries, head.encode(tokens[:, [label], :count]))
            for label, count in enumerate(shots[0].tolist())
        ]
        close(found, torch.cat(each, dim=-1))


def test_prototypes_are_means_over_the_pictures_of_a_class(queries, support):
    tokens, shots = support
    head = PrototypeHead()
    found = head(queries, head.encode(tokens, shots))
    for i, query in enumerate(queries[0]):
        for label, count in enumerate(shots[0].tolist()):
            pictures = [picture.mean(dim=0) for picture in tokens[0, label, :count]]
            mean = sum(pictures) / count
            close(found[0, i, label], -((query.mean(dim=0) - mean) ** 2).sum())
