"""A recording leaves the model, and other recordings, alone, whatever wraps them."""

import gc
import threading
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction

import relprop
from relprop import rules
from relprop.recording.eager import eagerly
from relprop.recording.recorder import Recorder
from relprop.recording.tags import known_tag
from tests.helpers.methods import OF_ALL_INPUTS, crossed
from tests.helpers.plain import B, D, N, Plain, assert_same, everything, ids, pixels

# --------------------------------------------------------------- what a model may be wrapped in


def test_gradient_checkpointing(tiny_vit, images):
    model = tiny_vit()
    expected = everything(model, images)
    model.set_grad_checkpointing(True)
    assert_same(everything(model, images), expected)
    assert model.grad_checkpointing


def test_frozen_parameters(tiny_vit, images):
    model = tiny_vit()
    expected = everything(model, images)
    assert_same(everything(model.requires_grad_(False), images), expected)


def counting(runs: list):
    """A backend of ``torch.compile`` that notes each run of what it compiled."""

    def backend(graph, _):
        def run(*args):
            runs.append(graph)
            return graph(*args)

        return run

    return backend


def test_compiled_model():
    runs = []
    model, x = Plain(), pixels()
    expected = everything(model, x)
    compiled = torch.compile(model, backend=counting(runs))
    with torch.no_grad():
        compiled(x)
        assert runs
        runs.clear()
        assert_same(everything(compiled, x), expected)
        assert not runs
        compiled(x)
        assert runs  # compiled as before


def test_threads_that_overlap_leave_compiled_models_compiled():
    runs = []
    compiled = torch.compile(nn.Linear(2, 2), backend=counting(runs))
    began, first_ended = threading.Event(), threading.Event()

    def second():
        with eagerly():
            began.set()
            first_ended.wait()
        compiled(torch.ones(1, 2))

    thread = threading.Thread(target=second)
    with eagerly():
        thread.start()
        began.wait()
    first_ended.set()
    thread.join()
    assert runs


def test_constant_that_requires_grad():
    """A tensor that is no parameter, but trained like one: as a parameter, a constant."""
    shift = torch.randn(1, N, D, dtype=torch.float64)
    found, expected = (
        everything(Plain(between=lambda x, s=s: x + s), pixels())
        for s in (shift.clone().requires_grad_(), nn.Parameter(shift))
    )
    assert_same(found, expected)


CONTEXTS = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "another default device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize(("context", "method"), crossed(CONTEXTS))
def test_contexts(context, method, tiny_vit, images):
    model, images = tiny_vit().float(), images.float()
    expected = relprop.explain(model, images, method=method)
    with CONTEXTS[context]():
        found = relprop.explain(model, images.clone(), method=method)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.relevance, expected.relevance)


class Pair(NamedTuple):
    """Arguments of a call, as a model may hold them."""

    first: Tensor
    second: Tensor


def test_tensors_in_a_named_tuple_are_as_those_in_a_list():
    """In a product with values, beside a table made in inference mode, and in the head."""
    with torch.inference_mode():
        table = torch.ones(B, 1, D, dtype=torch.float64)

    class Held(Plain):
        def __init__(self, kind) -> None:
            self.kind = kind
            super().__init__(attend=self.attend, between=self.between, read=self.read)

        def attend(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            attention = (q @ k.mT / 2).softmax(dim=-1)
            return torch.einsum("bhij,bhjd->bhid", self.kind(attention, v)), attention

        def between(self, x: Tensor) -> Tensor:
            return torch.cat(self.kind(x, table), dim=1)[:, :-1]

        def read(self, x: Tensor) -> Tensor:
            return torch.cat(self.kind(x[:, 0], x[:, 1]), dim=1)[:, :D]

    expected, found = (Held(kind) for kind in (lambda *x: list(x), Pair))
    assert_same(everything(found, pixels()), everything(expected, pixels()))
    logits = [
        trace.project(trace.states()[0])
        for trace in (relprop.record(model, pixels()) for model in (expected, found))
    ]
    assert torch.equal(*logits)


@pytest.mark.parametrize("text", [False, True], ids=["pixels", "ids"])
def test_a_model_made_in_inference_mode(text):
    inputs = ids() if text else pixels()
    with torch.inference_mode():
        model = Plain(text)
    assert_same(everything(model, inputs), everything(Plain(text), inputs))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_warned_of(dtype, tiny_vit, images):
    with pytest.warns(UserWarning, match=f"the model is in {dtype}, where maps by relevance of"):
        relprop.record(tiny_vit().to(dtype), images.to(dtype))


def test_autocast_of_the_model_itself(tiny_vit, images):
    """As Hugging Face's and one's own forward may have it: maps are those of the parameters."""
    model, images = tiny_vit().float(), images.float()

    class Casting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return self.model(x).float()

    for method in OF_ALL_INPUTS:
        expected = relprop.explain(model, images, 1, method)
        found = relprop.explain(Casting(), images, 1, method)
        assert torch.equal(found.logits, expected.logits)
        assert torch.equal(found.relevance, expected.relevance)
    assert not torch.is_autocast_enabled("cpu")


# -------------------------------------------------------------- several recordings at a time


def test_threads(tiny_vit, images):
    models = [tiny_vit(), tiny_vit(init_values=0.1), Plain()]
    inputs = [images, images, pixels()]
    expected = [everything(m, x) for m, x in zip(models, inputs, strict=True)]
    jobs = [0, 1, 2, 0]  # one model in two threads
    found, start = [None] * len(jobs), threading.Barrier(len(jobs))

    def work(job: int) -> None:
        start.wait()
        for _ in range(3):
            found[job] = everything(models[jobs[job]], inputs[jobs[job]])

    threads = [threading.Thread(target=work, args=(job,)) for job in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for job, f in zip(jobs, found, strict=True):
        assert_same(f, expected[job])


def test_threads_that_ask_one_recording(tiny_vit, images):
    trace = relprop.record(tiny_vit(), images)
    methods = ["transformer_attribution", "lrp", "partial_lrp", "generic_attention"]
    expected = [relprop.explain_trace(trace, 1, method).relevance for method in methods]
    found, start = [[] for _ in methods], threading.Barrier(len(methods))

    def work(job: int) -> None:
        start.wait()
        for _ in range(10):
            found[job].append(relprop.explain_trace(trace, 1, methods[job]).relevance)

    threads = [threading.Thread(target=work, args=(job,)) for job in range(len(methods))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for of_method, e in zip(found, expected, strict=True):
        assert len(of_method) == 10 and all(torch.equal(f, e) for f in of_method)


@pytest.mark.parametrize("method", OF_ALL_INPUTS)
def test_model_that_explains_another(method, tiny_vit, images):
    """The inner recording is no part of the outer one, whatever the method, and the other way."""
    inner, outer = tiny_vit(init_values=0.1), tiny_vit()

    class Masking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = inner, outer

        def forward(self, x: Tensor) -> Tensor:
            self.explanation = relprop.explain(inner, x, 2, method)
            heat = self.explanation.heatmap(32)[:, None].detach()
            return outer(x * (1 + heat))

    model, expected = Masking(), relprop.explain(inner, images, 2, method)
    found = everything(model, images)
    assert torch.equal(model.explanation.relevance, expected.relevance)
    assert_same(found, everything(outer, images * (1 + expected.heatmap(32)[:, None])))


# ----------------------------------------------------------------- the model is left as it was


class Interrupted(Exception):
    pass


def state(model: nn.Module) -> list:
    """All that a recording could have changed."""
    parameters = list(model.parameters())
    return [
        [m.training for m in model.modules()],
        [vars(m).get("grad_checkpointing") for m in model.modules()],
        [id(p) for p in parameters],
        [p.requires_grad for p in parameters],
        [(id(p.grad), None if p.grad is None else p.grad.sum().item()) for p in parameters],
        [p.sum().item() for p in parameters],
        [id(b) for b in model.buffers()],
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
        torch.overrides._get_current_function_mode_stack(),
        Recorder._active.stack[:],
    ]


@pytest.mark.parametrize("fails", [False, True], ids=["success", "exception"])
def test_model_in_training_is_left_as_it_was(fails, tiny_vit, images):
    rates = {f"{kind}drop_rate": 0.5 for kind in ("", "pos_", "proj_", "attn_")}
    model = tiny_vit(**rates, drop_path_rate=0.5)
    expected = everything(model, images)
    model.train()
    model.blocks[1].eval()
    model.set_grad_checkpointing(True)
    model.patch_embed.requires_grad_(False)
    model(images).sum().backward()
    model.zero_grad(set_to_none=False)
    model.head.weight.grad += 1
    model.norm.weight.grad = None
    images.requires_grad_()
    before = state(model)
    if fails:

        def interrupt(*_):
            raise Interrupted

        hook = model.blocks[2].attn.register_forward_hook(interrupt)
        with pytest.raises(Interrupted):
            relprop.explain(model, images)
        hook.remove()
    else:
        assert_same(everything(model, images), expected)
    assert state(model) == before
    assert images.grad is None and images.requires_grad and known_tag(images) is None
    assert_same(everything(model, images), expected)


def test_interrupted_while_walking_back(tiny_vit, images):
    """The recording is as good as before."""
    trace, target = relprop.record(tiny_vit(), images), torch.tensor([0, 1, 2])
    expected = trace.relevance(target)

    def interrupt(*_, **__):
        raise Interrupted

    with pytest.raises(Interrupted):
        trace.relevance(target, rules=rules.PAPER | {"matmul": interrupt})
    for found, e in zip(trace.relevance(target), expected, strict=True):
        assert torch.equal(found, e)


def recorded_nodes() -> int:
    return sum(isinstance(x, BackwardCFunction) for x in gc.get_objects())


@pytest.fixture
def no_collector():
    gc.collect()
    gc.freeze()
    gc.disable()
    assert recorded_nodes() == 0
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()
    gc.unfreeze()


def test_the_graph_is_freed_without_the_garbage_collector(tiny_vit, images, no_collector):
    """Once an explanation is there, and not because the collector found a cycle."""
    model = tiny_vit()
    for method in OF_ALL_INPUTS:
        trace = relprop.record(model, images)
        assert recorded_nodes() > 40
        explanation = relprop.explain_trace(trace, method=method)
        del trace
        assert recorded_nodes() == 0
        assert not explanation.relevance.requires_grad and not explanation.logits.requires_grad
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    assert not [x for x in gc.garbage if isinstance(x, (Tensor, relprop.Trace, Recorder))]


def test_the_graph_is_freed_after_in_place_operations(no_collector):
    def add(x, y):
        also_x = x.add_(y, alpha=0.5)
        x.add_(y, alpha=0.5)
        return also_x

    model = Plain(add=add, activate=nn.ReLU(inplace=True))
    trace = relprop.record(model, pixels())
    model.maps.clear()
    assert recorded_nodes() > 40
    del trace
    assert recorded_nodes() == 0
