"""A loss on maps in a training step: what it is made of, and what is refused."""

import gc

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import relprop
from lightning_modules.guidance import Guidance
from lightning_modules.utils.errors import InputError
from tests.helpers.guided import (
    SIZE,
    energy,
    losses,
    of_digits,
    of_pictures,
    of_reviews,
    same,
    there,
)
from tests.helpers.samples import message_of


@pytest.fixture(scope="module")
def digits():
    return of_digits()


@pytest.fixture(scope="module")
def reviews():
    return of_reviews()


def of_texts(module, batch):
    found = []
    for sample, target in enumerate(batch["label"].tolist()):
        count = int(batch["attention_mask"][sample].sum())
        inputs = {x: batch[x][[sample], :count] for x in ("input_ids", "attention_mask")}
        trace = relprop.record(module.backbone, inputs, differentiable="attention")
        options = {"method": "generic_attention", "normalize_rows": True}
        S = relprop.explain_trace(trace, target, **options).relevance[0]
        words = batch["word_ids"][sample].tolist()
        pieces = [i for i in range(count) if not batch["special"][sample, i]]
        m = [float(batch["rationale"][sample, words[i]]) for i in pieces]
        found.append(energy(S[pieces], torch.tensor(m, dtype=torch.float64)))
    return torch.stack(found)


CASES = {
    "pictures": (of_digits, lambda m, b: of_pictures(m, b, enumerate(b["label"].tolist()))),
    "texts": (of_reviews, of_texts),
    "labels": (lambda: of_digits("multilabel"), lambda m, b: of_pictures(m, b, there(b))),
    "numbers": (
        lambda: of_digits("regression"),
        lambda m, b: of_pictures(m, b, [(i, 0) for i in range(SIZE)]),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_of_a_step_is_that_of_both_losses_written_out(case):
    make, by_hand = CASES[case]
    module, batch = make()
    module.guidance = Guidance(weight=0.7)
    torch.manual_seed(1)
    found = module.training_step(batch, 0)
    drawn = torch.get_rng_state()
    found.backward()
    ours = [x.grad.clone() for x in module.parameters()]
    module.zero_grad()
    torch.manual_seed(1)
    plain = module.task.loss(module(batch), batch["label"], training=True)
    assert torch.equal(drawn, torch.get_rng_state())
    each = by_hand(module, batch)
    (plain + 0.7 * each.mean()).backward()
    same(found.detach(), (plain + 0.7 * each.mean()).detach())
    for gradient, parameter in zip(ours, module.parameters(), strict=True):
        same(gradient, parameter.grad)
    assert module.logged["train/guidance_loss"] == pytest.approx(float(each.mean()))
    share = float(torch.exp(-each).mean())
    assert module.logged["train/guidance_share"] == pytest.approx(share)


def test_an_exact_gradient_is_that_of_a_recording_that_has_it(digits):
    module, batch = digits
    logits, pairs = module(batch).detach(), list(enumerate(batch["label"].tolist()))
    (ours,) = Guidance(differentiable="exact").of_samples(module, batch, logits)[:1]
    theirs = of_pictures(module, batch, pairs, "exact")
    weight = module.backbone.blocks[0].attn.qkv.weight
    a, b, c = (
        torch.autograd.grad(x.sum(), weight)[0] for x in (ours, theirs, of_pictures(*digits, pairs))
    )
    same(a, b)
    assert (a - c).norm() > 0.1 * c.norm()


def test_the_published_loss_is_of_the_map_as_it_is_drawn(digits):
    module, batch = digits
    labels = batch["label"]
    found = relprop.explain(module.backbone, batch["image"].double(), labels, "generic_attention")
    each = [
        relprop.guidance_loss(x[None], mask[None], "robustvit")
        for x, mask in zip(found.heatmap((32, 32)), batch["mask"], strict=True)
    ]
    same(losses(module, batch, loss="robustvit"), torch.stack(each))


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "regression"])
def test_the_input_gradient_is_that_of_log_probabilities(task):
    """Right for the right reasons, of the sum of log p_k over the classes."""
    module, batch = of_digits(task)
    module.eval()
    for block in module.backbone.blocks:
        block.attn.fused_attn = False  # which has no second derivative
    images = batch["image"].double().requires_grad_()
    logits = module.backbone(images)
    of_task = {"multiclass": lambda z: z.log_softmax(-1), "multilabel": F.logsigmoid}
    total = of_task.get(task, lambda z: z)(logits).sum()
    (g,) = torch.autograd.grad(total, images, create_graph=True)
    masks, expected = batch["mask"], []
    for sample in range(SIZE):
        of_sample = masks[sample] if masks.ndim == 4 else masks[sample][None]
        for mask in of_sample[of_sample.flatten(1).any(dim=1)]:
            expected.append((g[sample] * ~mask).square().sum())
    ours, _ = Guidance(method="input_gradient").of_samples(module, batch, logits.detach())
    same(ours.sum(), torch.stack(expected).sum())
    weight = module.backbone.blocks[0].mlp.fc1.weight
    (a,), (b,) = (torch.autograd.grad(x.sum(), weight) for x in (ours, torch.stack(expected)))
    same(a, b)
    assert a.any()


def test_the_input_gradient_of_a_certain_decision_is_a_number(digits):
    """Probabilities of 0 have a logarithm, of the logits."""
    module, batch = of_digits()
    module.backbone.head.weight.data *= 1e5
    assert losses(module, batch, method="input_gradient").isfinite().all()


@pytest.mark.parametrize("loss", ["share", "robustvit"])
def test_the_loss_of_a_text_does_not_depend_on_longer_ones(reviews, loss):
    module, batch = reviews
    together = losses(module, batch, loss=loss)
    assert len(set(batch["attention_mask"].sum(dim=1).tolist())) > 1
    for row in range(SIZE):
        alone = module.part_of(batch, [row])
        count = int(alone["attention_mask"].sum())
        for name in ("input_ids", "attention_mask", "token_type_ids", "special", "word_ids"):
            alone |= {name: alone[name][:, :count]} if name in alone else {}
        same(losses(module, alone, loss=loss), together[[row]])


def test_nothing_is_left_of_a_step(digits):
    """Without the collector: nothing is kept by a cycle."""
    module, batch = digits
    module.guidance = Guidance(differentiable="exact", samples=2)

    def step() -> None:
        module.training_step(batch, 0).backward()
        module.zero_grad()

    def tensors() -> int:
        return sum(type(x) is torch.Tensor for x in gc.get_objects())

    step()
    gc.collect()
    gc.disable()
    try:
        before = tensors()
        step()
        step()
        assert tensors() == before
    finally:
        gc.enable()
        module.guidance = None


def test_a_compiled_model_is_recorded_as_it_is(digits):
    module, batch = of_digits()
    module.eval()  # which draws nothing
    module.guidance = Guidance()
    expected = module.training_step(batch, 0).detach()
    module.backbone.compile(backend="eager")
    loss = module.training_step(batch, 0)
    loss.backward()
    same(loss.detach(), expected)
    assert module.backbone.blocks[0].attn.qkv.weight.grad.any()


# --------------------------------------------------------------------------- what can be trained


def test_a_check_draws_nothing_and_changes_nothing(digits):
    module, _ = digits
    before, drawn = [x.clone() for x in module.parameters()], torch.get_rng_state()
    module.zero_grad()
    Guidance().check(module)
    assert torch.equal(torch.get_rng_state(), drawn) and module.backbone.training
    for old, parameter in zip(before, module.parameters(), strict=True):
        assert torch.equal(old, parameter) and parameter.grad is None


def test_adapters_and_the_head_alone_have_gradients():
    module, batch = of_digits(lora={"rank": 2})
    module.guidance = Guidance()
    module.guidance.check(module)
    added = module.guidance(module, batch, module(batch).detach())
    added.backward()
    found = {name for name, x in module.named_parameters() if x.grad is not None and x.grad.any()}
    assert any("lora_A" in name for name in found) and any("lora_B" in name for name in found)
    assert all("lora_" in name or "head" in name for name in found)


REFUSED = {
    "a head alone": ({"freeze_backbone": True}, {}, "model.freeze_backbone"),
    "a head alone, by names": ({"freeze": ["backbone.[!h]*"]}, {}, "nothing that is trained"),
    "mixup": ({"mixup": 0.2}, {}, "model.mixup or model.cutmix"),
    "cutmix": ({"cutmix": 1.0}, {}, "model.mixup or model.cutmix"),
    "a block that is not there": ({}, {"start_layer": 2}, "start_layer is 2"),
    "a map without attention": ({}, {"method": "transformer_attribution"}, "generic_attention"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_meaning_is_refused_before_training(case):
    of_model, options, said = REFUSED[case]
    module, _ = of_digits(**of_model)
    with pytest.raises(InputError) as raises:
        Guidance(**options).check(module)
    message_of(raises, "guidance", said)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_a_precision_in_which_maps_are_lost_is_refused(digits, monkeypatch, precision):
    monkeypatch.setattr(digits[0].trainer, "precision", precision)
    with pytest.raises(InputError) as raises:
        Guidance().check(digits[0])
    message_of(raises, f"trainer.precision={precision}")


def test_a_sharded_model_is_refused(digits, monkeypatch):
    strategy = FSDPStrategy.__new__(FSDPStrategy)  # itself it wants a GPU
    monkeypatch.setattr(digits[0].trainer, "strategy", strategy)
    with pytest.raises(MisconfigurationException) as raises:
        Guidance().check(digits[0])
    message_of(raises, "guidance: with FSDPStrategy no process has the whole model", "=null")


WRONG = [
    ({"weight": -1.0}, "weight: -1.0 is not accepted"),
    ({"weight": float("nan")}, "weight: NaN is not accepted"),
    ({"method": "saliency"}, "guidance.method"),
    ({"start_layer": -1}, "start_layer"),
    ({"samples": 0}, "samples"),
    ({"every_n_steps": 0}, "every_n_steps"),
    ({"warmup": 1.5}, "warmup"),
    ({"method": "input_gradient", "loss": "robustvit"}, "guidance.loss"),
    ({"method": "input_gradient", "loss": "share"}, "guidance.loss"),
    ({"method": "input_gradient", "differentiable": "attention"}, "guidance.differentiable"),
    ({"method": "input_gradient", "start_layer": 1}, "guidance.start_layer"),
    ({"loss": "right_reasons"}, "guidance.loss"),
]


@pytest.mark.parametrize(("options", "said"), WRONG)
def test_options_that_are_wrong_are_refused(options, said):
    with pytest.raises(ValueError) as raises:
        Guidance(**options)
    message_of(raises, said)
