"""model.kind=hf_image: image classifiers of Hugging Face train, and are explained, as timm's do."""

import json

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file

import explain
import train
from lightning_modules import HFImageClassifier
from lightning_modules.data import DATAMODULES
from lightning_modules.data.images.processors import own_processor
from lightning_modules.models.checkpoints import load_classifier
from lightning_modules.models.fit_checks import say_if_prepared_otherwise
from lightning_modules.protocols import BASELINES
from lightning_modules.protocols.explainer import Explainer
from lightning_modules.utils.errors import InputError
from tests.commands.test_edges import image_folder
from tests.helpers.published import IMAGE_CLASSIFIERS, photo, save_image_classifier
from tests.helpers.runs import TRAINER, assert_identical, load

INPUT = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
INPUT |= {"interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "center"}
NAMES = ["cat", "dog", "bird"]
KINDS = [kind for kind in IMAGE_CLASSIFIERS if kind != "ResNet"]
WITHOUT_ATTENTION = ("ConvNext",)


def sizes_of(kind: str) -> dict:
    left_out = {"image_size", "intermediate_size" if kind == "Dinov2" else ""}
    sizes = {k: v for k, v in IMAGE_CLASSIFIERS[kind][0].items() if k not in left_out}
    return sizes | {"model_type": kind.lower()}


def classifier(kind: str = "ViT", names=NAMES, **options) -> HFImageClassifier:
    torch.manual_seed(0)
    if "name" not in options:
        options["config"] = sizes_of(kind) | options.get("config", {})
    return HFImageClassifier(names, INPUT, **options)


def run(run_dir, kind: str, *options: str) -> None:
    """Two steps an epoch on digits."""
    method = "attnlrp" if kind in WITHOUT_ATTENTION else "transformer_attribution"
    sizes = ["model.config=null", f"model.config={json.dumps(sizes_of(kind))}"]
    train.main(
        [
            *TRAINER,
            "--config=configs/hf_vit_digits.yaml",
            *(sizes if "--resume" not in options else []),
            *("data.batch_size=4", "data.train_size=8", "data.val_size=4", "data.test_size=4"),
            *("data.pairs_size=2", "tracker.samples=2", f"tracker.method={method}"),
            *(f"run_dir={run_dir}", "trainer.max_epochs=2", *options),
        ]
    )


def message(capsys, main, *arguments) -> str:
    with pytest.raises(SystemExit) as exit_:
        main([str(x) for x in arguments])
    assert exit_.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


# -------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("kind", KINDS)
def test_each_family_trains_from_scratch_with_the_tracker_and_its_checkpoint_is_explained(
    tmp_path, kind
):
    run(tmp_path / "run", kind)
    assert len(list((tmp_path / "run" / "explanations").glob("epoch=*.png"))) == 2
    photo().save(tmp_path / "a.png")
    method = "attnlrp" if kind in WITHOUT_ATTENTION else "transformer_attribution"
    module = load_classifier(tmp_path / "run" / "checkpoints" / "best.ckpt")
    assert type(module.backbone).__name__ == f"{kind}ForImageClassification"
    explain.main(
        [
            *("--checkpoint", str(tmp_path / "run"), "--input", str(tmp_path / "a.png")),
            *("--method", method, "attnlrp", "--output", str(tmp_path / "out")),
            *("--format", "json,png"),
        ]
    )
    (entry,) = json.loads((tmp_path / "out" / "explanations.json").read_text())["inputs"]
    found = module.explain(module.prepare([photo()]), method=method)
    assert entry["logit"] == pytest.approx(found.logits[0].tolist(), rel=1e-5)
    torch.testing.assert_close(
        torch.tensor(entry["relevance"][method]).float(), torch.from_numpy(found.arrays())
    )


def test_the_tracker_and_a_resume_leave_training_as_it_is(tmp_path):
    dropout = '{"hidden_dropout_prob": 0.2}'
    options = (f"model.config={json.dumps(sizes_of('ViT') | json.loads(dropout))}",)
    run(tmp_path / "whole", "ViT", *options)
    run(tmp_path / "without", "ViT", *options, "tracker=null")
    run(tmp_path / "cut", "ViT", *options, "trainer.max_steps=3")
    train.main(["--resume", str(tmp_path / "cut"), "trainer.max_steps=-1"])
    ends = {name: load(tmp_path / name) for name in ("whole", "without", "cut")}
    for other in ("without", "cut"):
        for part in ("state_dict", "optimizer_states", "lr_schedulers"):
            assert_identical(ends["whole"][part], ends[other][part], part)


def test_a_method_that_needs_attention_is_refused_for_convnext_before_it_trains(tmp_path, capsys):
    said = message(
        *(capsys, train.main, *TRAINER, "--config=configs/hf_vit_digits.yaml"),
        *("model.config=null", f"model.config={json.dumps(sizes_of('ConvNext'))}"),
        f"run_dir={tmp_path / 'run'}",
        *("data.val_size=4", "tracker.samples=2"),
    )
    assert said.startswith("train.py: tracker: no attention map was seen")
    assert "accepted: a method that needs none, such as attnlrp" in said
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_rates_fall_from_block_to_block_and_only_matrices_decay(kind):
    model = classifier(kind, layer_decay=0.5, lr=1.0, weight_decay=0.3)
    names = {id(p): name for name, p in model.backbone.named_parameters()}
    groups = {names[id(p)]: g for g in model.parameter_groups() for p in g["params"]}
    assert groups.keys() == {n for n in names.values() if not n.endswith("mask_token")}
    assert {groups[name]["lr"] for name in model.head_parameters()} == {1.0}
    rates = sorted({g["lr"] for g in groups.values()}, reverse=True)
    assert rates == [0.5**i for i in range(len(rates))]
    blocks = sorted(
        {
            name.split(".attention")[0].split(".dwconv")[0]
            for name in names.values()
            if ".attention.q" in name or ".dwconv." in name
        }
    )
    of_blocks = [{groups[n]["lr"] for n in groups if n.startswith(f"{b}.")} for b in blocks]
    assert all(len(found) == 1 for found in of_blocks)  # a block has one rate
    of_blocks = [rate for found in of_blocks for rate in found]
    assert of_blocks == sorted(set(of_blocks)) and min(rates) < of_blocks[0]
    assert of_blocks[-1] == 0.5  # the head is above the last block
    kept = [name for name, group in groups.items() if group["weight_decay"] == 0]
    tables = ("position_embeddings", "_token", "relative_position_bias_table")
    for name in groups:
        parameter = model.backbone.get_parameter(name)
        assert (name in kept) == (parameter.ndim < 2 or name.endswith(tables)), name


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_is_trained_has_a_gradient_for_which_several_processes_wait(kind):
    model = classifier(kind)
    model({"image": torch.randn(2, 3, 32, 32)}).sum().backward()
    parameters = model.backbone.named_parameters()
    assert [name for name, p in parameters if p.requires_grad and p.grad is None] == []


# ------------------------------------------------------------------- from a hub id or a folder


@pytest.fixture
def saved(tmp_path):
    """A folder with a model, of three classes, its weights in safetensors."""
    model = save_image_classifier(tmp_path / "vit", id2label=dict(enumerate(NAMES)))
    assert (tmp_path / "vit" / "model.safetensors").is_file()
    return model, tmp_path / "vit"


def test_a_folder_brings_its_weights_and_its_head_in_the_order_of_the_data(saved, capsys):
    model, folder = saved
    ours = classifier(names=["dog", "cat", "bird"], name=str(folder)).eval()
    pixels = torch.randn(2, 3, 32, 32)
    theirs = model(pixels).logits.detach()
    torch.testing.assert_close(ours({"image": pixels}).detach(), theirs[:, [1, 0, 2]])
    assert "head" not in capsys.readouterr().err
    weights = load_file(folder / "model.safetensors")
    assert torch.equal(weights["classifier.weight"], model.classifier.weight)


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "c"]], ids=["number", "names"])
def test_a_head_of_other_classes_is_left_out_which_is_said_in_a_line(saved, capsys, names):
    model, folder = saved
    capsys.readouterr()
    ours = classifier(names=names, name=str(folder)).eval()
    said = [x for x in capsys.readouterr().err.splitlines() if "head" in x]
    assert len(said) == 1 and "the head is left out, its classes are others" in said[0]
    assert not torch.equal(ours.backbone.classifier.weight[:2], model.classifier.weight[:2])
    theirs, features = model.vit.state_dict(), ours.backbone.vit.state_dict()
    assert all(torch.equal(theirs[name], features[name]) for name in theirs)


def test_both_heads_of_a_distilled_deit_are_made_for_the_classes(tmp_path):
    sizes = IMAGE_CLASSIFIERS["DeiT"][0] | {"num_labels": 5}
    built = transformers.DeiTConfig(**sizes)
    transformers.DeiTForImageClassificationWithTeacher(built).save_pretrained(tmp_path)
    ours = classifier(names=["a", "b"], name=str(tmp_path), freeze_backbone=True)
    assert ours({"image": torch.zeros(1, 3, 32, 32)}).shape == (1, 2)
    trained = {n for n, p in ours.backbone.named_parameters() if p.requires_grad}
    assert {n.partition(".")[0] for n in trained} == {"cls_classifier", "distillation_classifier"}
    again = HFImageClassifier(["a", "b"], INPUT, **ours.without_sources())
    assert type(again.backbone) is type(ours.backbone)


def test_a_checkpoint_needs_neither_the_folder_nor_the_hub(saved, tmp_path):
    _, folder = saved
    image_folder(tmp_path / "data", train=["cat", "dog"], val=["cat", "dog"])
    train.main(
        [
            *(*TRAINER, "--config=configs/hf_vit_digits.yaml", "model.config=null"),
            *(f"model.name={folder}", "data.kind=image_folder", f"data.root={tmp_path / 'data'}"),
            *(f"data.transforms_of={folder}", "data.num_workers=0", "data.batch_size=2"),
            *("trainer.max_epochs=1", "tracker=null", f"run_dir={tmp_path / 'run'}"),
        ]
    )
    folder.rename(tmp_path / "gone")
    module = load_classifier(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert module.hparams.class_names == ["cat", "dog"] and module.hparams.name is None
    again = classifier(
        names=["dog", "cat"], config=module.backbone.config.to_diff_dict(),
        weights=str(tmp_path / "run"),
    ).eval()  # fmt: skip
    pixels = {"image": torch.randn(1, 3, 32, 32)}
    torch.testing.assert_close(again(pixels), module(pixels)[:, [1, 0]])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "nowhere/at-all"}, "model.name nowhere/at-all: .*accepted: the hub id or folder"),
        ({"config": {"model_type": "bert"}}, "accepted: .*model_type vit, deit, beit, dinov2"),
        ({"config": {"hiden_size": 8}}, "model.config.hiden_size .*'vit'; accepted: hidden_size"),
        ({"name": "a/b", "config": {}}, "model.name and model.config: give one of them"),
    ],
    ids=["name", "type", "key", "both"],
)
def test_what_is_no_image_classifier_is_refused_in_a_line(options, said):
    with pytest.raises(ValueError, match=said):
        HFImageClassifier(NAMES, INPUT, **options)


def test_pictures_of_another_size_than_the_models_are_refused_with_what_makes_them_fit(saved):
    _, folder = saved
    module = HFImageClassifier(NAMES, INPUT | {"input_size": [3, 48, 48]}, name=str(folder))
    with pytest.raises(InputError, match=f"accepted: .*data.transforms_of={folder}"):
        module.check_inputs()


# ----------------------------------------------------------------------------- data and protocols


@pytest.mark.parametrize("kind", KINDS)
def test_the_data_take_size_mean_and_std_of_a_models_image_processor(tmp_path, kind):
    folder = tmp_path / "model"
    save_image_classifier(folder, kind)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            photo().save(tmp_path / split / name / "0.png")
    data = DATAMODULES["image_folder"](root=str(tmp_path), transforms_of=str(folder), num_workers=0)
    processor, config = own_processor("it", str(folder), "")
    assert data.input_config == config and config["input_size"] == [3, 32, 32]
    theirs = processor(images=[photo()], return_tensors="pt")["pixel_values"][0]
    ours = data.val_dataset[0]["image"]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.15)
    larger = DATAMODULES["image_folder"](
        root=str(tmp_path), transforms_of=str(folder), image_size=48, num_workers=0
    )
    assert larger.input_config == config | {"input_size": [3, 48, 48]}


def test_pictures_that_are_prepared_otherwise_than_a_named_models_are_told(capsys):
    config = {"model": {"kind": "hf_image", "name": "a/vit"}, "data": {"transforms_of": None}}
    say_if_prepared_otherwise(config)
    assert "data.transforms_of=a/vit prepares them" in capsys.readouterr().err
    for other in ({"data": {"transforms_of": "a/vit"}}, {"data": {}}):
        say_if_prepared_otherwise(config | other)
    assert not capsys.readouterr().err


def test_a_folder_without_an_image_processor_is_refused(tmp_path):
    with pytest.raises(InputError, match="data.transforms_of .*no image processor.*accepted"):
        DATAMODULES["image_folder"](root=str(tmp_path), transforms_of=str(tmp_path))


@pytest.mark.parametrize("method", ["saliency", "input_x_gradient", "integrated_gradients"])
def test_the_gradients_of_baselines_are_those_of_the_pixels(method):
    module = classifier().eval()
    batch = module.prepare([photo(), Image.new("RGB", (32, 32), "red")])
    explainer = Explainer(module, module.record(batch), batch, method, {}, "image")
    found = BASELINES[method].function(explainer, 1)["image"]
    pixels = batch["image"].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(module.backbone(pixels).logits[:, 1].sum(), pixels)
    if method == "saliency":
        torch.testing.assert_close(found.relevance, gradient.abs().sum(dim=1).flatten(1))
    elif method == "input_x_gradient":
        torch.testing.assert_close(found.relevance, (gradient * pixels).sum(dim=1).flatten(1))
    else:
        assert found.relevance.shape == (2, 32 * 32)
