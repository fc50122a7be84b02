"""A training step beside a teacher: what is added to its loss, and what is refused."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import default_collate

import relprop
from lightning_modules import BertClassifier, ViTClassifier
from lightning_modules.data import DigitsDataModule
from lightning_modules.distillation import Distillation
from lightning_modules.models.teacher import FILE, Teacher
from lightning_modules.utils.errors import InputError
from tests.helpers.guided import BERT, SIZE, VIT, of_reviews, ready, same
from tests.helpers.samples import message_of

OLD = 4  # classes of the teacher


def of_digits(folder, **options):
    """A student of ten digits whose teacher knows four of them, and a batch of the others."""
    torch.manual_seed(0)
    sizes = {"train_size": SIZE, "val_size": 1, "test_size": 1, "pairs_size": 1}
    data = DigitsDataModule(classes=list(range(OLD, 10)), **sizes)
    names = [str(x) for x in range(OLD)]
    given = {"name": "vit_tiny_patch16_224", "model_options": VIT}
    teacher = ready(ViTClassifier(names, data.input_config, **given))
    Teacher(teacher.float()).write(folder)
    data.add_classes(names)
    given |= {"previous": str(folder / FILE)} | options
    module = ready(ViTClassifier(data.class_names, data.input_config, **given))
    batch = default_collate([data.train_dataset[0, i] for i in range(SIZE)])
    return module, batch | {"image": batch["image"].double()}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return of_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    teacher, batch = of_reviews()
    folder = tmp_path_factory.mktemp("reviews")
    Teacher(teacher.float()).write(folder)
    names = [*teacher.hparams.class_names, "mixed"]
    given = {"config": BERT, "previous": str(folder / FILE)}
    module = ready(BertClassifier(names, teacher.hparams.input_config, **given))
    return module, batch


def attention_of(backbone, images) -> list[torch.Tensor]:
    """Attention before its dropout, [B, H, N, N] a block, by hooks, in evaluation."""
    found, hooks, training = [], [], backbone.training
    backbone.eval()
    for block in backbone.blocks:
        block.attn.fused_attn = False
        seen = block.attn.attn_drop.register_forward_pre_hook(lambda _, x: found.append(x[0]))
        hooks.append(seen)
    backbone(images)
    for block, hook in zip(backbone.blocks, hooks, strict=True):
        block.attn.fused_attn = True
        hook.remove()
    backbone.train(training)
    return found


def with_ink(batch) -> list[list[int]]:
    """The tokens of each scene, after the class token, whose patch of 4 x 4 has ink."""
    masks = batch["mask"].unflatten(1, (8, 4)).unflatten(3, (8, 4))
    return [[1 + i for i in x.any(dim=3).any(dim=1).flatten().nonzero()[:, 0]] for x in masks]


def relevant(module, batch) -> list[list[int]]:
    teacher = module.teacher.module
    found = relprop.explain(teacher.backbone, batch["image"], None, "generic_attention")
    return [[1 + i for i in (S > S.mean()).nonzero()[:, 0].tolist()] for S in found.relevance]


REGIONS = {  # lists of queries that are one region, of each sample
    "mask": lambda module, batch: [[x] for x in with_ink(batch)],
    "relevance": lambda module, batch: [[x] for x in relevant(module, batch)],
    "global": lambda module, batch: [[list(range(65))]] * SIZE,
    "all": lambda module, batch: [[[q] for q in range(65)]] * SIZE,
}


@pytest.mark.parametrize("blocks", ["all", "last"])
@pytest.mark.parametrize("region", REGIONS)
def test_the_gradient_of_a_step_is_that_of_the_losses_written_out(digits, region, blocks):
    module, batch = digits
    module.teacher.on(module)
    module.distillation = Distillation(attention=3.0, logits=0.7, region=region, blocks=blocks)
    torch.manual_seed(1)
    found = module.training_step(batch, 0)
    drawn = torch.get_rng_state()
    found.backward()
    ours = [x.grad.clone() for x in module.parameters()]
    module.zero_grad()
    torch.manual_seed(1)
    logits = module(batch)
    plain = module.task.loss(logits, batch["label"], training=True)
    assert torch.equal(drawn, torch.get_rng_state())
    before = module.teacher.module.backbone(batch["image"]).detach()
    kept = -(before.softmax(1) * logits[:, :OLD].softmax(1).log()).sum(dim=1).mean()
    pairs = list(
        zip(
            attention_of(module.backbone, batch["image"]),
            attention_of(module.teacher.module.backbone, batch["image"]),
            strict=True,
        )
    )
    chosen, of_blocks = REGIONS[region](module, batch), []
    for A, B in pairs if blocks == "all" else pairs[-1:]:
        for sample, regions in enumerate(chosen):
            each = [
                (A[sample, h, queries].mean(0) - B[sample, h, queries].mean(0)).norm()
                for queries in regions
                for h in range(A.shape[1])
            ]
            of_blocks.append(torch.stack(each).mean())
    moved = torch.stack(of_blocks).mean()
    expected = plain + 3 * moved + 0.7 * kept
    expected.backward()
    same(found.detach(), expected.detach())
    for gradient, parameter in zip(ours, module.parameters(), strict=True):
        same(gradient, parameter.grad)
    assert module.logged["train/distill_attention"] == pytest.approx(float(moved.detach()))
    assert module.logged["train/distill_logits"] == pytest.approx(float(kept.detach()))
    assert moved > 0
    module.zero_grad()


def test_what_is_not_weighted_is_not_computed(digits, monkeypatch):
    module, batch = digits
    module.logged.clear()
    monkeypatch.setattr(module, "record", lambda *_, **__: pytest.fail("recorded"))
    loss = Distillation(attention=0, logits=1)(module, batch, module(batch))
    assert loss > 0 and module.logged.keys() == {"train/distill_logits"}
    module.logged.clear()
    assert Distillation(attention=0, logits=0)(module, batch, module(batch)) == 0
    assert not module.logged


def test_a_scene_without_a_mask_has_no_region(digits):
    module, batch = digits
    own = Distillation(region="mask").of_attention(module, batch)
    known = torch.arange(SIZE) % 2 == 0
    some = Distillation(region="mask").of_attention(module, batch | {"has_mask": known})
    same(some.detach(), (own * known).detach())
    assert (own > 0).all()


@pytest.mark.parametrize("region", REGIONS)
def test_the_loss_of_a_text_does_not_depend_on_longer_ones(reviews, region):
    """Their pieces are padding of this one."""
    module, batch = reviews
    module.teacher.on(module)
    together = Distillation(region=region).of_attention(module, batch).detach()
    assert (together > 0).any() and len(set(batch["attention_mask"].sum(dim=1).tolist())) > 1
    for row in range(SIZE):
        alone = module.part_of(batch, [row])
        count = int(alone["attention_mask"].sum())
        for name in ("input_ids", "attention_mask", "token_type_ids", "special", "word_ids"):
            alone |= {name: alone[name][:, :count]} if name in alone else {}
        same(Distillation(region=region).of_attention(module, alone).detach(), together[[row]])


def test_the_region_of_a_text_is_its_rationale(reviews):
    module, batch = reviews
    trace = module.teacher.on(module).module.record(batch)
    found = Distillation(region="mask")._regions(module.teacher.module, batch, trace)[:, 0]
    for sample, words in enumerate(batch["word_ids"].tolist()):
        expected = [i >= 0 and bool(batch["rationale"][sample, i]) for i in words]
        assert found[sample].tolist() == expected
    assert found.any()


def test_a_first_step_has_no_difference_and_a_gradient_of_0(digits):
    module, batch = digits
    module.backbone.load_state_dict(
        {
            name: torch.cat([value, module.backbone.state_dict()[name][OLD:]])
            if name.startswith("head.")
            else value
            for name, value in module.teacher.module.backbone.state_dict().items()
        }
    )
    module.zero_grad()
    loss = Distillation(region="all").of_attention(module, batch).sum()
    assert loss == 0
    loss.backward()
    gradients = [x.grad for x in module.parameters() if x.grad is not None]
    assert gradients and all((x == 0).all() for x in gradients)


# --------------------------------------------------------------------------- what can be trained


@pytest.mark.parametrize(
    ("options", "given", "reason"),
    [
        ({"mixup": 0.2}, {}, "model.mixup or model.cutmix"),
        ({"freeze_backbone": True}, {}, "model.freeze_backbone"),
    ],
)
def test_options_that_do_not_go_with_it(tmp_path, options, given, reason):
    module, _ = of_digits(tmp_path, **options)
    with pytest.raises(InputError) as raised:
        Distillation(**given).check(module)
    message_of(raised, "distill with", reason, "accepted: one of the two, not both")


def test_attention_that_is_frozen_may_go_with_the_loss_on_logits(tmp_path):
    module, _ = of_digits(tmp_path, freeze_backbone=True)
    Distillation(attention=0).check(module)


def test_without_a_teacher_there_is_nothing_to_keep(digits):
    module, _ = digits
    teacher, module.teacher = module.teacher, None
    with pytest.raises(InputError) as raised:
        Distillation().check(module)
    message_of(raised, "distill", "accepted: model.previous=RUN, or distill=null")
    module.teacher = teacher


def test_a_check_draws_nothing_and_changes_nothing(digits):
    module, _ = digits
    before, drawn = [x.clone() for x in module.parameters()], torch.get_rng_state()
    Distillation().check(module)
    assert torch.equal(drawn, torch.get_rng_state()) and module.training
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


@pytest.mark.parametrize("name", ["test_resnet", "swin_tiny_patch4_window7_224"])
def test_a_model_without_attention_of_its_tokens_is_refused(name):
    swin = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "patch_size": 2}
    options = swin | {"window_size": 4} if name.startswith("swin") else {}
    config = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
    config |= {"interpolation": "bicubic", "crop_pct": 1.0}
    module = ViTClassifier(["a", "b"], config, name=name, model_options=options)
    module.teacher, module.trainer = object(), SimpleNamespace(strategy=None)
    with pytest.raises(InputError) as raised:
        Distillation().check(module)
    message_of(raised, "distill.attention", "accepted")
    Distillation(attention=0).check(module)
