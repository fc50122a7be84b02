"""timm's Swin, ConvNeXt and ResNet train under model.kind=vit, with what fits each of them."""

import json

import pytest
import timm
import torch

import explain
import train
from lightning_modules import ViTClassifier
from lightning_modules.models.checkpoints import load_classifier
from tests.helpers.published import photo
from tests.helpers.runs import DIGITS, TRAINER, load, rows

INPUT = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
SWIN = {"embed_dim": 12, "depths": [1, 1], "num_heads": [2, 2], "patch_size": 4, "window_size": 4}
FAMILIES = {  # name, model_options, methods that explain it
    "swin": ("swin_tiny_patch4_window7_224", SWIN, ["attnlrp", "transformer_attribution"]),
    "convnext": ("test_convnext", {}, ["attnlrp", "lrp"]),
    "resnet": ("test_resnet", {}, ["attnlrp", "lrp"]),
}


def of_family(family: str, run_dir, *options: str) -> list[str]:
    name, sizes, _ = FAMILIES[family]
    given = [x for x in DIGITS if x not in TRAINER and not x.startswith("model.model_options")]
    return [
        *(*TRAINER, *given, "model.model_options=null", f"model.model_options={json.dumps(sizes)}"),
        *(f"model.name={name}", "data.batch_size=4", "data.train_size=8", "data.val_size=4"),
        *("data.test_size=4", "data.pairs_size=2", "tracker.samples=2", "trainer.max_epochs=2"),
        *(f"run_dir={run_dir}", *options),
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_trains_with_the_tracker_and_is_explained(tmp_path, family):
    _, _, (method, other) = FAMILIES[family]
    tracked = f"tracker.method={method}"
    train.main(of_family(family, tmp_path / "run", tracked, "model.layer_decay=0.8"))
    photo().save(tmp_path / "a.png")
    explain.main(
        [
            *("--checkpoint", str(tmp_path / "run"), "--input", str(tmp_path / "a.png")),
            *("--method", method, other, "--format", "json", "--output", str(tmp_path / "out")),
        ]
    )
    (entry,) = json.loads((tmp_path / "out" / "explanations.json").read_text())["inputs"]
    module = load_classifier(tmp_path / "run" / "checkpoints" / "best.ckpt")
    found = module.explain(module.prepare([photo()]), method=other).arrays()[0]
    assert torch.tensor(entry["relevance"][other]).shape[1:] == found.shape


def test_a_resnet_goes_on_to_the_bit_with_its_running_statistics(tmp_path):
    options = ("tracker=null", "model.layer_decay=0.8")
    train.main(of_family("resnet", tmp_path / "run", *options))
    train.main(of_family("resnet", tmp_path / "cut", *options, "trainer.max_steps=3"))
    train.main(["--resume", str(tmp_path / "cut"), "trainer.max_steps=-1"])
    ours, theirs = load(tmp_path / "cut")["state_dict"], load(tmp_path / "run")["state_dict"]
    assert any(name.endswith("running_var") for name in theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert rows(tmp_path / "cut") == rows(tmp_path / "run")


@pytest.mark.parametrize("family", ["convnext", "resnet"])
def test_a_method_that_it_cannot_have_is_refused_before_it_trains(tmp_path, capsys, family):
    with pytest.raises(SystemExit) as exit_:
        train.main(of_family(family, tmp_path / "run", "tracker.method=rollout"))
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert exit_.value.code == 2 and said.startswith("train.py: tracker: no attention map")
    assert "accepted: a method that needs none, such as attnlrp" in said
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_rates_fall_from_the_head_down_and_heads_are_known(family):
    name, sizes, _ = FAMILIES[family]
    model = ViTClassifier(
        ["a", "b"], INPUT, name=name, model_options=sizes, layer_decay=0.5, lr=1.0,
        freeze_backbone=False,
    )  # fmt: skip
    names = {id(p): name for name, p in model.backbone.named_parameters()}
    rates = {names[id(p)]: g["lr"] for g in model.parameter_groups() for p in g["params"]}
    assert rates.keys() == set(names.values())
    head = model.head_parameters()
    assert head and {rates[name] for name in head} == {1.0}
    assert all(len(model.backbone.get_parameter(x)) == 2 for x in head)
    first = next(name for name in names.values())
    assert rates[first] == min(rates.values()) and len(set(rates.values())) > 2
    frozen = ViTClassifier(["a", "b"], INPUT, name=name, model_options=sizes, freeze_backbone=True)
    trained = {n for n, p in frozen.backbone.named_parameters() if p.requires_grad}
    assert trained == head


def test_weights_of_a_swin_of_other_windows_and_of_a_resnet_are_taken_as_timm_takes_them(tmp_path):
    """Swin's tables of relative positions are resized, where the ViT's filter would leave them."""
    name, sizes, _ = FAMILIES["swin"]
    torch.manual_seed(0)
    swin = timm.create_model(name, num_classes=2, img_size=64, **sizes | {"window_size": 8})
    torch.save(swin.state_dict(), tmp_path / "swin.pth")
    module = ViTClassifier(
        ["a", "b"], INPUT, name=name, model_options=sizes, weights=str(tmp_path / "swin.pth")
    )
    tables = [
        x.layers[0].blocks[0].attn.relative_position_bias_table for x in (swin, module.backbone)
    ]
    assert tables[0].shape != tables[1].shape
    for key in ("patch_embed.proj.weight", "layers.1.blocks.0.mlp.fc1.weight", "head.fc.weight"):
        assert torch.equal(module.backbone.state_dict()[key], swin.state_dict()[key])
    resnet = timm.create_model("test_resnet", num_classes=2)
    torch.save(resnet.state_dict(), tmp_path / "resnet.pth")
    module = ViTClassifier(
        ["a", "b"], INPUT, name="test_resnet", weights=str(tmp_path / "resnet.pth")
    )
    assert all(
        torch.equal(x, resnet.state_dict()[k]) for k, x in module.backbone.state_dict().items()
    )
