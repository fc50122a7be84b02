"""Every array of reference/bimodal, and bimodal_attention on models of Hugging Face."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

import relprop
from relprop import UnsupportedModel
from relprop.bimodal import Bimodal, hat
from relprop.recording.tags import State

FOLDER = Path(__file__).parents[1] / "reference" / "bimodal"


def load(name: str) -> dict[str, Tensor]:
    return {k: torch.from_numpy(x) for k, x in np.load(FOLDER / f"{name}.npz").items()}


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


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert expected.std() > 0
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


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


def test_lxmert_of_hugging_face():
    """By the published generator, with the attention and the gradients of an eager model."""
    torch.manual_seed(0)
    config = transformers.LxmertConfig(
        vocab_size=40, hidden_size=24, num_attention_heads=2, intermediate_size=32, l_layers=2,
        r_layers=2, x_layers=2, visual_feat_dim=10, num_qa_labels=4, max_position_embeddings=16,
        attn_implementation="eager",
    )  # fmt: skip
    model = transformers.LxmertForQuestionAnswering(config).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    inputs = {
        "input_ids": torch.randint(1, 40, (1, 6)),
        "visual_feats": torch.randn(1, 5, 10).double(),
        "visual_pos": torch.rand(1, 5, 4).double(),
    }
    out = model(**inputs, output_attentions=True)
    y = out.question_answering_score[0, 2]
    names = ("language_attentions", "vision_attentions", "cross_encoder_attentions")
    output = {"output": lambda o: o.question_answering_score}
    trace = relprop.record(model, inputs, **output)
    target = torch.tensor([2])
    A, G = trace.attention, trace.gradient(target)
    expected = [x for name in names[:2] for x in out[name]]
    for found, e in zip(A[:4], expected, strict=True):
        torch.testing.assert_close(found, e, rtol=1e-10, atol=1e-12)
    assert y.isfinite()
    # In the order in which the model computes them.
    order = ["lang0", "lang1", "vis0", "vis1"]
    for i in range(2):
        order += [
            f"x{i}.{kind}" for kind in ("text_from_image", "image_from_text", "text", "image")
        ]
    arrays = {}
    for name, a, g in zip(order, A, G, strict=True):
        arrays |= {f"A:{name}": a[0], f"G:{name}": g[0]}
    sets = Sets(arrays, text=6, image=5)
    for kind, name in (("lang", "text"), ("vis", "image")):
        for i in range(2):
            sets.attend(f"{kind}{i}", name, name)
    for i in range(2):
        before = dict(sets.states)
        sets.attend(f"x{i}.text_from_image", "text", "image", before["image"])
        sets.attend(f"x{i}.image_from_text", "image", "text", before["text"])
        for name in ("text", "image"):
            sets.attend(f"x{i}.{name}", name, name)
    R = sets.of("text")
    row = R["text"][0].clone()
    row[0] = 0
    found = relprop.explain_trace(trace, 2, "bimodal_attention").sources
    assert_close(found["input_ids"].relevance[0], row)
    image = found["visual_feats"].relevance + found["visual_pos"].relevance
    assert_close(image[0], R["image"][0])


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
