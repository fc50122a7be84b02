"""What is asked of the engine is checked: one line that names it and says what is accepted."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import relprop


def test_what_is_no_module_is_refused(images):
    with pytest.raises(ValueError, match="the model is <built-in .*; accepted: a torch.nn.Module"):
        relprop.explain(len, images)


@pytest.mark.parametrize("gamma", ["a", -1, float("nan"), True])
def test_wrong_gamma(gamma):
    for made in (
        lambda: relprop.rules.attnlrp(gamma=gamma),
        lambda: relprop.rules.cp_lrp(gamma=gamma),
        lambda: relprop.rules.gamma_rule(gamma),
    ):
        with pytest.raises(ValueError, match=f"gamma is {gamma!r}; accepted: a number, 0 or more"):
            made()
    with pytest.raises(ValueError, match=f"patch_gamma is {gamma!r}; accepted: a number"):
        relprop.rules.attnlrp(patch_gamma=gamma)


@pytest.mark.parametrize("classes", [[1], [0, 1]])
@pytest.mark.parametrize("found", [None, 3, "[B]", "[B, N, 1, 1]", "a sample"])
def test_a_method_that_returns_no_map_is_refused(found, classes, tiny_vit, images):
    made = {
        "[B]": torch.ones(3), "[B, N, 1, 1]": torch.ones(3, 17, 1, 1), "a sample": torch.ones(1, 17)
    }  # fmt: skip

    @relprop.method("wrong")
    def wrong(trace, target, options):
        return made.get(found, found)

    try:
        with pytest.raises(ValueError, match="method 'wrong' returns .*; accepted: relevance of"):
            relprop.explain_classes(relprop.record(tiny_vit(), images), classes, "wrong")
    finally:
        del relprop.METHODS["wrong"]


@pytest.mark.parametrize("returned", [None, "relevance", (3,)])
@pytest.mark.parametrize("base", ["lrp", "attnlrp"])
def test_a_rule_that_returns_no_relevance_is_refused(returned, base, tiny_vit, images):
    own = {"linear": lambda *args, eps, **kwargs: returned}
    own = relprop.rules.Corrections(own) if base == "attnlrp" else relprop.rules.LRP | own
    with pytest.raises(ValueError, match="the rule of 'linear' returns .*; accepted: relevance"):
        relprop.explain(tiny_vit(), images, 1, "lrp", rules=own)


def test_a_correction_may_return_a_tensor_alone(tiny_vit, images):
    of_linear = lambda gradient, output, input, weight, *args, eps: gradient @ weight  # noqa: E731
    alone, in_tuple = (
        relprop.rules.Corrections({"linear": rule})
        for rule in (of_linear, lambda *args, **kwargs: (of_linear(*args, **kwargs),))
    )
    found = [relprop.explain(tiny_vit(), images, 1, "lrp", rules=x) for x in (alone, in_tuple)]
    assert torch.equal(found[0].relevance, found[1].relevance)


@pytest.mark.filterwarnings("always")
def test_a_warning_is_of_the_line_that_called(tiny_vit, images):
    for explain in (relprop.explain, relprop.record):
        with pytest.warns(UserWarning, match="the model is in torch.bfloat16") as warned:
            explain(tiny_vit().bfloat16(), images.bfloat16())
        assert {x.filename for x in warned} == {__file__}


class Next(nn.Module):
    """A language model: logits [B, N, V] of ids, returned as ``made`` has it."""

    def __init__(self, made=lambda x: x) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head, self.made = nn.Embedding(9, 6), nn.Linear(6, 5), made

    def forward(self, input_ids, attention_mask=None, labels=None):
        logits = self.head(self.embed(input_ids))
        if labels is not None:
            return nn.functional.cross_entropy(logits.view(-1, 5), labels.view(-1)), logits
        return self.made(logits)


IDS = torch.arange(12).view(2, 6) % 9
LEFT = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])  # of the first text four tokens


@pytest.mark.parametrize("position", [0, 1, -5, 6, torch.tensor([1, 1]), [-6, 0], 10**6])
def test_a_position_of_padding_is_refused(position):
    inputs = {"input_ids": IDS, "attention_mask": LEFT}
    with pytest.raises(
        ValueError, match=r"sample 0 has no token; accepted: 2 to 5, or -1 .* to -4"
    ):
        relprop.explain(Next(), inputs, 1, "attnlrp", position=position)
    found = relprop.explain(Next(), inputs, 1, "attnlrp", position=[-4, 0]).relevance
    assert found[:, [2, 0]].diagonal().ne(0).all() and (found != 0).sum() == 2


@pytest.mark.parametrize("position", [[1, 3], torch.tensor([1, 3]), (1, 3)])
def test_positions_of_each_sample_in_parts(position):
    whole = relprop.explain(Next(), IDS, 1, "attnlrp", position=torch.tensor([1, 3]))
    parts = relprop.explain(Next(), IDS, 1, "attnlrp", position=position, max_memory=1)
    assert torch.equal(parts.relevance, whole.relevance)


def test_a_position_of_logits_in_a_tuple():
    whole = relprop.explain(Next(), IDS, 1, "attnlrp", position=-1)
    found = relprop.explain(Next(lambda x: (x, x[None])), IDS, 1, "attnlrp", position=-1)
    assert torch.equal(found.relevance, whole.relevance)
    with pytest.raises(relprop.UnsupportedModel, match="which of them are its logits"):
        relprop.explain(Next(lambda x: (x, 2 * x)), IDS, 1, "attnlrp", position=-1)


def test_labels_among_the_inputs_are_named():
    inputs = {"input_ids": IDS, "labels": IDS % 5}
    with pytest.raises(
        relprop.UnsupportedModel, match="makes a loss .* of inputs 'labels'; accept"
    ):
        relprop.explain(Next(), inputs, 1, "attnlrp", position=-1)


def test_an_output_that_is_of_the_whole_batch_is_not_taken_in_parts():
    rows, places = torch.arange(2), torch.tensor([1, 3])
    asked = {"output": lambda x: x[rows, places]}
    whole = relprop.explain(Next(), IDS, 1, "attnlrp", position=places)
    found = relprop.explain(Next(), IDS, 1, "attnlrp", **asked)
    assert torch.equal(found.relevance, whole.relevance)
    with pytest.raises(ValueError, match="output= fails on a part of the batch .*no max_memory"):
        relprop.explain(Next(), IDS, 1, "attnlrp", max_memory=1, **asked)


@pytest.mark.parametrize("name", ["head.weight", "pos_embed"])
def test_a_learned_parameter_that_is_no_source_is_refused(name, tiny_vit, images):
    with pytest.raises(ValueError, match=f"learned: '{name}' is not made into tokens .*accepted: "):
        relprop.explain(tiny_vit(), images, 1, learned=[name])


def test_a_learned_parameter_of_another_name_is_told_the_nearest(tiny_vit, images):
    with pytest.raises(
        ValueError, match="'pos_embd' is no parameter; .*such as pos_embed"
    ) as error:
        relprop.explain(tiny_vit(), images, 1, learned=["pos_embd"])
    assert len(str(error.value)) < 300


class Waits(TorchDispatchMode):
    """Raises where a GPU would be waited for: a value is read."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function not in (torch.ops.aten.nonzero.default, LOCAL), function
        return function(*args, **(kwargs or {}))


LOCAL = torch.ops.aten._local_scalar_dense.default


@pytest.mark.parametrize("target", [None, 2])
def test_a_class_that_is_a_number_is_found_without_reading_a_tensor(target):
    logits = torch.tensor([[0.1, 0.2, 0.7], [0.1, 0.0, 0.3]])
    with Waits():
        found = relprop.resolve_target(target, logits)
    assert found.tolist() == [2, 2] and found.dtype == torch.int64
