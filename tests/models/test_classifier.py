"""ViTClassifier: what it optimises, where its weights come from, that it is timm's model."""

import math

import lightning
import pytest
import timm
import torch
from torch.utils.data import DataLoader

import relprop
from lightning_modules import ViTClassifier

NAME = "vit_tiny_patch16_224"
OPTIONS = {"patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2}
INPUT = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
CLASSES = ["cat", "dog", "emu"]


def classifier(**options) -> ViTClassifier:
    torch.manual_seed(0)
    return ViTClassifier(
        **{"class_names": CLASSES, "input_config": INPUT, "name": NAME}
        | {"model_options": OPTIONS}
        | options
    )


def batches(count=4, size=8) -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count * size, 3, 32, 32, generator=generator)
    samples = [{"image": x, "label": i % len(CLASSES)} for i, x in enumerate(images)]
    return DataLoader(samples, batch_size=size)


def fit(model: ViTClassifier, **options) -> lightning.Trainer:
    trainer = lightning.Trainer(
        **{"max_epochs": 1, "accelerator": "cpu", "logger": False} | options,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, batches(), batches(1))
    return trainer


def decays(model: ViTClassifier) -> dict[str, float]:
    names = {id(p): name for name, p in model.backbone.named_parameters()}
    return {names[id(p)]: g["weight_decay"] for g in model.parameter_groups() for p in g["params"]}


def rates(model: ViTClassifier) -> dict[str, float]:
    names = {id(p): name for name, p in model.backbone.named_parameters()}
    return {names[id(p)]: g["lr"] for g in model.parameter_groups() for p in g["params"]}


def test_the_backbone_is_timms_own():
    plain = timm.create_model(NAME, num_classes=3, img_size=32, **OPTIONS)
    model = classifier()
    assert type(model.backbone) is type(plain)
    assert model.backbone.state_dict().keys() == plain.state_dict().keys()


def test_no_weight_decay_on_biases_norms_tokens_and_positions():
    model = classifier(weight_decay=0.3)
    of = decays(model)
    assert of.keys() == dict(model.backbone.named_parameters()).keys()
    for name, decay in of.items():
        free = name.endswith("bias") or "norm" in name or name in ("cls_token", "pos_embed")
        assert decay == (0.0 if free else 0.3), name


def test_layer_decay_slows_each_block_below():
    of = rates(classifier(layer_decay=0.5, lr=1.0))
    blocks = [of[f"blocks.{i}.mlp.fc1.weight"] for i in range(3)]
    assert of["head.weight"] == 1.0
    assert blocks[1] == pytest.approx(2 * blocks[0]) and blocks[2] == pytest.approx(2 * blocks[1])
    assert of["patch_embed.proj.weight"] < blocks[0]
    assert set(rates(classifier(lr=0.1)).values()) == {0.1}


def test_warm_up_then_cosine_to_zero():
    model = classifier(lr=1.0, warmup=0.25)
    seen = []
    model.on_train_batch_end = lambda *_: seen.append(model.optimizers().param_groups[0]["lr"])
    fit(model, max_epochs=2)  # 8 steps; what is seen is the rate of the next one
    cosine = [(1 + math.cos(math.pi * (step - 2) / 6)) / 2 for step in range(2, 9)]
    assert seen == pytest.approx([(0.01 + 1) / 2, *cosine])


def test_label_smoothing_is_in_the_training_loss():
    batch = next(iter(batches(1)))
    losses = []
    for smoothing in (0.0, 0.5):
        model = classifier(label_smoothing=smoothing).eval()
        model.log = model.log_dict = model.log_training = lambda *a, **k: None
        losses.append(model.training_step(batch, 0).item())
    logits = classifier().eval()(batch)
    expected = torch.nn.functional.cross_entropy(logits, batch["label"], label_smoothing=0.5)
    assert losses[1] == pytest.approx(expected.item())
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)


def test_a_frozen_backbone_trains_the_head_alone():
    model = classifier(freeze_backbone=True, lr=0.1)
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    fit(model)
    changed = {k for k, v in model.backbone.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"head.weight", "head.bias"}
    assert model.explain(next(iter(batches(1)))).relevance.std() > 0


@pytest.mark.parametrize("options", [{"mixup": 0.8}, {"cutmix": 1.0}])
def test_mixing_changes_the_training_and_leaves_the_batch(options):
    batch = next(iter(batches(1)))
    images = batch["image"].clone()
    model = classifier(**options)
    model.log_training = lambda loss: None
    model.training_step(batch, 0)
    assert torch.equal(batch["image"], images)
    plain, mixed = classifier(), classifier(**options)
    fit(plain), fit(mixed)
    assert not torch.equal(plain.backbone.head.weight, mixed.backbone.head.weight)


def test_mixing_needs_even_batches():
    with pytest.raises(ValueError, match="batch.*even"):
        model = classifier(mixup=0.5)
        batch = next(iter(batches(1, size=3)))
        model.training_step(batch, 0)


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_mixed_precision_trains_and_explains_in_full(precision):
    model = classifier()
    fit(model, precision=precision)
    explanation = model.explain(next(iter(batches(1))))
    assert explanation.relevance.dtype == torch.float32 and explanation.relevance.isfinite().all()


def test_accumulation_and_clipping_pass_through():
    trainer = fit(classifier(), accumulate_grad_batches=2, gradient_clip_val=0.1)
    assert trainer.global_step == 2


def test_per_class_accuracy_of_the_classes_there_are():
    model = classifier(class_names=[*CLASSES, "never seen"])
    logged = fit(model).callback_metrics
    assert {f"val_class_accuracy/{name}" for name in CLASSES} <= logged.keys()
    assert "val_class_accuracy/never seen" not in logged
    assert "val/accuracy" in logged and "val/accuracy_top5" not in logged


def test_top_5_where_there_are_more_classes():
    model = classifier(class_names=list("abcdefg"))
    assert "val/accuracy_top5" in fit(model).callback_metrics


# --------------------------------------------------------------------- weights from a file


@pytest.fixture
def trained(tmp_path):
    model = classifier()
    path = tmp_path / "weights.pth"
    torch.save({k: v + 1 for k, v in model.backbone.state_dict().items()}, path)
    return path


def test_weights_from_a_file(trained):
    expected = torch.load(trained, weights_only=True)
    state = classifier(weights=str(trained)).backbone.state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_weights_with_a_head_of_other_classes(trained):
    model = classifier(weights=str(trained), class_names=list("abcdefg"))
    assert model.backbone.head.weight.shape[0] == 7
    expected = torch.load(trained, weights_only=True)["blocks.0.mlp.fc1.weight"]
    assert torch.equal(model.backbone.blocks[0].mlp.fc1.weight, expected)


def test_weights_of_another_image_size(trained):
    model = classifier(weights=str(trained), input_config=INPUT | {"input_size": [3, 48, 48]})
    assert model.backbone.pos_embed.shape[1] == 37


@pytest.mark.parametrize("options", [{"embed_dim": 36}, {"depth": 4}, {"depth": 2}])
def test_weights_that_do_not_fit_are_refused(trained, options):
    with pytest.raises(ValueError, match=f"{trained.name} do not fit"):
        classifier(weights=str(trained), model_options=OPTIONS | options)


def test_weights_that_would_run_code_are_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"head.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="evil.pth"):
        classifier(weights=str(tmp_path / "evil.pth"))
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_does_not_fetch_the_initial_weights_again(tmp_path, trained):
    model = classifier(weights=str(trained))
    trainer = fit(model)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    trained.unlink()
    loaded = ViTClassifier.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    batch = next(iter(batches(1)))
    assert torch.equal(loaded.eval()(batch), model.eval()(batch))


# --------------------------------------------------------------------------- mistakes, explain


def test_an_unknown_model_is_told_the_nearest():
    with pytest.raises(ValueError, match="deit_tiny_patch16_224"):
        classifier(name="deit_tiny_patch16_22")


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="the classes are 'all'; accepted: 2 classes or more"):
        classifier(class_names=["all"])


def test_explain_is_relprops_on_the_backbone():
    model, batch = classifier(), next(iter(batches(1)))
    ours = model.explain(batch, target=1, method="rollout", start_layer=1)
    theirs = relprop.explain(model.backbone, batch["image"], 1, "rollout", start_layer=1)
    assert torch.equal(ours.relevance, theirs.relevance)
    parts = model.explain(batch, target=1, method="rollout", start_layer=1, max_memory=0)
    torch.testing.assert_close(parts.relevance, theirs.relevance)


def test_a_compiled_backbone_explains_as_an_uncompiled_one():
    batch = next(iter(batches(1)))
    compiled, plain = classifier(compile=True), classifier()
    assert compiled.backbone.state_dict().keys() == plain.backbone.state_dict().keys()
    assert torch.equal(compiled.explain(batch).relevance, plain.explain(batch).relevance)
