"""Every array of reference/bimodal, by the rules written out matrix by matrix and by the engine."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import relprop
from relprop import UnsupportedModel
from relprop.recording.tags import State
from relprop.walks.bimodal import Bimodal, hat
from tests.helpers import bimodal
from tests.helpers.plain import N, Plain, eager, pixels

FOLDER = Path(__file__).parents[1] / "reference" / "bimodal"


def load(name: str) -> dict[str, Tensor]:
    return {k: torch.from_numpy(x) for k, x in np.load(FOLDER / f"{name}.npz").items()}


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert expected.std() > 0
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


# ------------------------------------------------------------------- the rules written out

ABLATIONS = {
    "ours": {},
    "no_normalisation": {"normalise": False},
    "no_self_in_rule_10": {"self_in_rule_10": False},
}
CROSS = ("text_from_image", "image_from_text", "text", "image")


def map_of(arrays: dict[str, Tensor], name: str) -> bimodal.Map:
    return arrays[f"A:{name}"], arrays[f"G:{name}"]


def chain_of(arrays: dict[str, Tensor], name: str) -> list[bimodal.Map]:
    """Maps ``name`` 0, 1, ... in their order."""
    names = sorted(k.removeprefix("A:") for k in arrays if k.startswith(f"A:{name}"))
    return [map_of(arrays, n) for n in names]


def test_every_array_of_the_references_is_tested():
    names = {"mm_clip": ("R:image", "R:text")}
    lxmert = (*ABLATIONS, "rollout", "gradcam", "raw_attention")
    names["mm_lxmert"] = tuple(f"{R}:{v}" for v in lxmert for R in ("R_tt", "R_ti"))
    names["mm_detr"] = names["mm_detr_zero_row"] = tuple(f"R_qi:{v}" for v in ABLATIONS)
    assert {p.stem for p in FOLDER.glob("*.npz")} == set(names)
    for name, expected in names.items():
        assert {k for k in load(name) if k.startswith("R")} == set(expected)


@pytest.mark.parametrize("tower", ["image", "text"])
def test_towers_of_clip_written_out(tower):
    arrays = load("mm_clip")
    assert_close(bimodal.one_set(chain_of(arrays, tower)), arrays[f"R:{tower}"])


def lxmert_maps(arrays: dict[str, Tensor]) -> tuple[list, list, list[dict]]:
    cross = [{kind: map_of(arrays, f"x{i}.{kind}") for kind in CROSS} for i in range(3)]
    return chain_of(arrays, "lang"), chain_of(arrays, "vis"), cross


@pytest.mark.parametrize("variant", [*ABLATIONS, "rollout", "gradcam", "raw_attention"])
def test_lxmert_written_out(variant):
    arrays = load("mm_lxmert")
    maps = lxmert_maps(arrays)
    if variant in ABLATIONS:
        found = bimodal.lxmert(*maps, **ABLATIONS[variant])
    elif variant == "rollout":
        found = bimodal.lxmert_rollout(*maps)
    else:
        weigh = bimodal.gradcam if variant == "gradcam" else bimodal.attention_alone
        last = maps[-1][-1]
        found = bimodal.last_layer(last["text"], last["text_from_image"], weigh)
    for name, R in zip(("R_tt", "R_ti"), found, strict=True):
        assert_close(R, arrays[f"{name}:{variant}"])


@pytest.mark.parametrize("variant", ABLATIONS)
@pytest.mark.parametrize("name, layers", [("mm_detr", 3), ("mm_detr_zero_row", 2)])
def test_detr_written_out(name, layers, variant):
    arrays = load(name)
    decoder = [
        (map_of(arrays, f"decoder{i}.queries"), map_of(arrays, f"decoder{i}.queries_from_image"))
        for i in range(layers)
    ]
    _, found = bimodal.detr(chain_of(arrays, "encoder"), decoder, **ABLATIONS[variant])
    row, expected = found[int(arrays["query"])], arrays[f"R_qi:{variant}"]
    if (name, variant) == ("mm_detr_zero_row", "ours"):  # 0/0, and then no term of any layer
        assert not expected.any() and row.isfinite().all() and row.std() > 0
    else:
        assert_close(row, expected)


# ------------------------------------------------------------------------------ the engine


class Sets:
    """States as a recording has them, built map by map."""

    def __init__(self, arrays: dict[str, Tensor], **sizes: int) -> None:
        self.arrays, self.factors, self.keys = arrays, [], []
        self.states = {name: State(i, home=(name,)) for i, name in enumerate(sizes)}
        self.sizes = {self.states[name]: size for name, size in sizes.items()}
        self.count = len(sizes)

    def attend(self, map: str, s: str, q: str, key: State | None = None) -> State:
        """Tokens of ``s`` after they have attended to those of ``q``."""
        A, G = self.arrays[f"A:{map}"], self.arrays[f"G:{map}"]
        self.factors.append((A * G).clamp(min=0).mean(0)[None])
        self.keys.append(self.states[q] if key is None else key)
        self.count += 1
        base = self.states[s]
        self.states[s] = State(self.count, base, (len(self.factors) - 1,), base.home)
        return self.states[s]

    def of(self, s: str) -> dict[str, Tensor]:
        found = Bimodal(self.factors, self.keys, self.sizes).of(self.states[s])
        return {q.home[0]: R[0] for q, R in found.items()}


def test_clip():
    arrays = load("mm_clip")
    for tower, count in (("image", 10), ("text", 7)):
        sets = Sets(arrays, **{tower: count})
        for i in range(3):
            sets.attend(f"{tower}{i}", tower, tower)
        assert_close(sets.of(tower)[tower], arrays[f"R:{tower}"])


def lxmert(arrays: dict[str, Tensor]) -> Sets:
    sets = Sets(arrays, text=6, image=5)
    for kind, name in (("lang", "text"), ("vis", "image")):
        for i in range(2):
            sets.attend(f"{kind}{i}", name, name)
    for i in range(3):
        before = dict(sets.states)  # text and image at once
        sets.attend(f"x{i}.text_from_image", "text", "image", before["image"])
        sets.attend(f"x{i}.image_from_text", "image", "text", before["text"])
        for name in ("text", "image"):
            sets.attend(f"x{i}.{name}", name, name)
    return sets


def test_lxmert():
    arrays = load("mm_lxmert")
    found = lxmert(arrays).of("text")
    R_tt = found["text"].clone()
    R_tt[0, 0] = 0
    assert_close(R_tt, arrays["R_tt:ours"])
    assert_close(found["image"], arrays["R_ti:ours"])


def detr(arrays: dict[str, Tensor], layers: int) -> Tensor:
    sets = Sets(arrays, image=9, queries=6)
    for i in range(2):
        sets.attend(f"encoder{i}", "image", "image")
    for i in range(layers):
        sets.attend(f"decoder{i}.queries", "queries", "queries")
        sets.attend(f"decoder{i}.queries_from_image", "queries", "image")
    return sets.of("queries")["image"][int(arrays["query"])]


def test_detr():
    arrays = load("mm_detr")
    assert_close(detr(arrays, 3), arrays["R_qi:ours"])


def test_a_row_that_has_gathered_nothing_stays_one_of_the_identity():
    """The published code loses the whole layer there; here only that row has nothing to add."""
    arrays = load("mm_detr_zero_row")
    R = torch.eye(3).double()[None].repeat(1, 1, 1)
    R[0, 1, 2] = 0.5
    assert torch.equal(hat(R)[0, 0], torch.eye(3).double()[0])
    assert hat(R)[0, 1].tolist() == [0, 1, 1]
    found = detr(arrays, 2)
    assert found.isfinite().all() and not torch.allclose(found, arrays["R_qi:ours"])


# ------------------------------------------------------------------------------ on models


def test_of_one_set_of_tokens_it_is_generic_attention(tiny_vit, images):
    model = tiny_vit()
    found = relprop.explain(model, images, 1, "bimodal_attention").relevance
    expected = relprop.explain(model, images, 1, "generic_attention").relevance
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_windows_are_refused():
    import timm

    model = timm.create_model("swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1)).eval()
    with pytest.raises(UnsupportedModel, match="not between whole sets of tokens|follows sets of"):
        relprop.explain(model, torch.randn(1, 3, 224, 224), 1, "bimodal_attention")


def written_in_parts(x, y):
    z = x.clone()
    z[:, 1:] = z[:, 1:] + y[:, 1:]
    z[:, :1] = x[:, :1] + y[:, :1]
    return z


def once(move):
    """``move`` after the first of three blocks."""
    calls = []

    def between(x):
        calls.append(x)
        return move(x) if len(calls) % 3 == 1 else x

    return between


MOVED = {
    "turned around": {"between": once(lambda x: x.flip(1))},
    "indexed": {"between": once(lambda x: x[:, [4, 2, 0, 1, 3, *range(5, N)]])},
    "by views alone": {
        "between": once(lambda x: x.unflatten(1, (2, 5)).transpose(1, 2).flatten(1, 2))
    },
    "a residual that is turned around": {"add": lambda x, y: x.flip(1) + y},
    "attention that is turned around": {"add": lambda x, y: x + y.flip(1)},
    "values that are turned around": {"attend": lambda q, k, v: eager(q, k, v.flip(2))},
    "mixed": {"between": once(lambda x: x + x.mean(1, keepdim=True).relu())},
    "in parts": {"add": written_in_parts},
}


@pytest.mark.parametrize("name", MOVED)
def test_tokens_that_change_places_are_refused(name):
    """Rows and columns of the maps would be of other tokens."""
    model = Plain(**MOVED[name])
    with pytest.raises(UnsupportedModel, match="each in its order, and those of .* are moved"):
        relprop.explain(model, pixels(), 1, "bimodal_attention")
    relprop.explain(model, pixels(), 1, "generic_attention")


def test_a_head_that_reads_sums_of_tokens_has_the_map_of_these_tokens():
    model = Plain(read=lambda x: (x + x.flip(1))[:, 0])
    found = relprop.explain(model, pixels(), 1, "bimodal_attention").relevance
    expected = relprop.explain(model, pixels(), 1, "generic_attention").relevance
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
