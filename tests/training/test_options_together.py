"""Options of the ViT beside a teacher and beside guidance: right, or refused in a line."""

import pytest
import torch
from torch.utils.data import default_collate

from lightning_modules import ViTClassifier
from lightning_modules.data import DigitsDataModule
from lightning_modules.distillation import Distillation
from lightning_modules.guidance import Guidance
from lightning_modules.models.teacher import FILE, Teacher
from lightning_modules.utils.errors import InputError
from tests.helpers.guided import SIZE, VIT, of_digits, ready, same
from tests.helpers.samples import message_of

OLD = 4  # classes of the teacher
PARTS, STRIDE = {"parts": True}, {"patch_stride": 3}
ONE_QUERY = {"pool": "attention", "pool_init": 1.0, "pool_heads": 2}
QUERIES = {"pool": "attention_per_class", "pool_init": 1.0}
PLAIN = {"name": "vit_tiny_patch16_224", "model_options": VIT}


def going_on(folder, ours: dict, theirs: dict):
    """A ViT of ten digits that goes on from one of four, and a batch of the other six."""
    torch.manual_seed(0)
    sizes = {"train_size": SIZE, "val_size": 1, "test_size": 1, "pairs_size": 1}
    data = DigitsDataModule(classes=list(range(OLD, 10)), **sizes)
    names = [str(x) for x in range(OLD)]
    teacher = ready(ViTClassifier(names, data.input_config, **PLAIN | theirs))
    Teacher(teacher.float()).write(folder)
    data.add_classes(names)
    given = PLAIN | ours | {"previous": str(folder / FILE)}
    module = ViTClassifier(data.class_names, data.input_config, **given)
    batch = default_collate([data.train_dataset[0, i] for i in range(SIZE)])
    return module, batch | {"image": batch["image"].double()}


def alone(module) -> None:
    """In one process, of whose samples pairs are made."""
    module.trainer.world_size = 1


@pytest.mark.parametrize(
    "options", [PARTS, STRIDE, {"pool": "avg"}, ONE_QUERY, QUERIES, {**PARTS, "contrastive": 1.0}]
)
def test_a_run_goes_on_and_first_decides_as_before(tmp_path, options):
    module, batch = going_on(tmp_path, options, options)
    module = module.double().eval()
    before = module.teacher.on(module).logits(batch)
    same(module(batch)[:, :OLD].detach(), before)
    assert before.std() > 0
    alone(ready(module))
    module.distillation = Distillation(attention=0, logits=0.5)
    module.training_step(batch, 0).backward()
    assert module.logged["train/distill_logits"] > 0
    assert ("train/contrastive_loss" in module.logged) == ("contrastive" in options)


@pytest.mark.parametrize(
    ("ours", "theirs", "option"),
    [
        ({}, PARTS, "model.parts is False; accepted with model.previous: True, as"),
        (PARTS, {}, "model.parts is True; accepted with model.previous: False, as"),
        (ONE_QUERY, ONE_QUERY | {"pool_heads": 1}, "model.pool_heads is 2"),
        ({}, {"pool": "avg"}, "model.pool is None; accepted with model.previous: avg"),
        (STRIDE, {}, "model.patch_stride is 3; accepted with model.previous: None"),
    ],
)
def test_a_run_does_not_go_on_as_another_model(tmp_path, ours, theirs, option):
    with pytest.raises(InputError, match=option):
        going_on(tmp_path, ours, theirs)


@pytest.mark.parametrize("options", [PARTS, ONE_QUERY, QUERIES])
def test_attention_that_is_not_all_of_all_tokens_is_not_kept(tmp_path, options):
    module = ready(going_on(tmp_path, options, options)[0])
    with pytest.raises(InputError) as raised:
        Distillation().check(module)
    message_of(raised, "attention is not of the same tokens in every layer", "distill.attention=0")
    Distillation(attention=0).check(module)


def test_attention_of_other_heads_is_not_kept(tmp_path):
    ours = {"model_options": VIT | {"num_heads": 4}}
    module = ready(going_on(tmp_path, ours, {})[0])
    with pytest.raises(InputError) as raised:
        Distillation().check(module)
    message_of(raised, "distill.attention: ", "[4, 65, 65]", "[2, 65, 65]", "model.previous")


@pytest.mark.parametrize(("options", "stride"), [(STRIDE, 3), ({"pool": "avg"}, 4)])
def test_a_patch_that_overlaps_others_is_of_the_object_if_it_sees_it(tmp_path, options, stride):
    module, batch = going_on(tmp_path, options, options)
    module = ready(module)
    Distillation(region="mask").check(module)
    trace = module.teacher.on(module).module.record(batch)
    found = Distillation(region="mask")._regions(module.teacher.module, batch, trace)[:, 0]
    for sample, mask in enumerate(batch["mask"]):
        starts = range(0, 32 - 4 + 1, stride)
        expected = [bool(mask[y : y + 4, x : x + 4].any()) for y in starts for x in starts]
        assert found[sample, trace.prefix :].tolist() == expected
        assert not found[sample, : trace.prefix].any()
    assert (Distillation(region="mask").of_attention(module, batch) > 0).all()


# ------------------------------------------------------------------------------------ guidance


@pytest.mark.parametrize(
    ("options", "method", "differentiable"),
    [
        (PARTS, "generic_attention", "attention"),
        (PARTS | STRIDE | {"contrastive": 1.0}, "generic_attention", "attention"),
        (PARTS, "attnlrp", "exact"),
        (ONE_QUERY, "generic_attention", "attention"),
        (ONE_QUERY, "pooling_attention", "attention"),
        (ONE_QUERY, "pooling_attention", "exact"),
        (QUERIES, "pooling_attention", "attention"),
        (QUERIES, "attnlrp", "exact"),
    ],
)
def test_the_gradient_of_guidance_is_the_one_that_is_measured(options, method, differentiable):
    """But where only attention is differentiated, and other things move the map as well."""
    module, batch = of_digits(**options)
    alone(module)
    guidance = Guidance(method=method, differentiable=differentiable)
    guidance.check(module)
    module.guidance = guidance
    module.training_step(batch, 0).backward()
    assert module.logged["train/guidance_loss"] > 0
    module.zero_grad()
    logits = torch.zeros(SIZE, 10, dtype=torch.float64)
    losses, shares = guidance.of_samples(module, batch, logits)
    assert len(losses) == SIZE and ((0 < shares) & (shares < 1)).all()
    losses.sum().backward()
    pooled = method == "pooling_attention"  # of which the attention is all that counts
    layer = module.backbone.attn_pool.attn.q if pooled else module.backbone.blocks[0].attn.qkv
    trained = layer.weight
    direction = trained.grad / trained.grad.norm()
    moved = []
    for step in (1e-6, -1e-6):
        trained.data += step * direction
        moved.append(guidance.of_samples(module, batch, logits)[0].sum().item())
        trained.data -= step * direction
    measured = (moved[0] - moved[1]) / 2e-6
    if differentiable == "exact" or pooled:
        assert measured == pytest.approx(trained.grad.norm().item(), rel=1e-4)
    assert trained.grad.norm() > 0
