"""What is made of model.name, model.model_options and model.config: nothing is dropped unsaid."""

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoConfig, BertConfig

import train
from lightning_modules import BertClassifier, ViTClassifier
from lightning_modules.data.texts.tokenizers import input_config_of
from lightning_modules.modalities.images.explained import ExplainedImages
from lightning_modules.models.checkpoints import load_classifier
from lightning_modules.models.hf_checks import check_keys
from lightning_modules.models.vit_backbone import create_backbone, is_of_one_size
from lightning_modules.utils.errors import InputError
from tests.commands.test_edges import image_folder
from tests.helpers.published import SIZES, save_text_classifier, tokenizer_of
from tests.helpers.runs import TRAINER, rows

INPUT = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
BERT = {"model_type": "bert", **SIZES}


def of_images(root, run_dir, name: str, *options: str) -> list[str]:
    """A run of one epoch."""
    given = image_folder(root, train=["cat", "dog"], val=["cat", "dog"])
    given = [option for option in given if not option.startswith("model.model_options")]
    return [*TRAINER, *given, f"model.name={name}", "trainer.max_epochs=1", *options] + [
        f"run_dir={run_dir}"
    ]


def bert(config: dict) -> BertClassifier:
    return BertClassifier(["a", "b"], input_config_of(tokenizer_of(), 20, None), config=config)


# ------------------------------------------------------------------------------------ timm's names


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "test_convnext",
        "test_efficientnet",
        "mobilevit_xxs",
        "naflexvit_base_patch16_gap",
    ],
)
def test_a_model_of_any_pictures_is_not_asked_for_their_size(name):
    assert not is_of_one_size(name)
    with torch.device("meta"):
        model = create_backbone(name, 3, False, {}, (64, 96)).eval()
        assert model(torch.zeros(1, 3, 64, 96)).shape == (1, 3)


@pytest.mark.parametrize(
    "name",
    [
        *("deit_tiny_distilled_patch16_224", "vit_tiny_patch16_224.augreg_in21k"),
        *("vit_tiny_patch16_224_in21k", "swin_tiny_patch4_window7_224", "mixer_s16_224"),
        *("cait_xxs24_224", "beit_base_patch16_224"),
    ],
)
def test_a_model_of_one_size_gets_it(name):
    """One that was made for others refuses these pictures."""
    assert is_of_one_size(name)
    with torch.device("meta"):
        model = create_backbone(name, 3, False, {}, (64, 96)).eval()
        assert model(torch.zeros(1, 3, 64, 96)).shape == (1, 3)
        with pytest.raises(AssertionError):
            timm.create_model(name, num_classes=3).eval()(torch.zeros(1, 3, 64, 96))


@pytest.mark.parametrize("name", ["resnet18", "test_convnext"])
def test_a_model_without_attention_trains_without_the_tracker(tmp_path, name):
    train.main(of_images(tmp_path, tmp_path / "run", name, "tracker=null", "model.layer_decay=0.8"))
    (row,) = rows(tmp_path / "run")
    assert 0 <= float(row["val/accuracy"]) <= 1
    module = load_classifier(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert type(module.backbone) is type(timm.create_model(name))


def test_a_model_without_attention_is_not_tracked(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        train.main(of_images(tmp_path, tmp_path / "run", "resnet18"))
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert exit_.value.code == 2 and message.startswith("train.py: tracker: no attention map")


def test_what_has_no_attention_is_decayed_as_timm_does():
    model = ViTClassifier(["a", "b"], INPUT, name="resnet18", weight_decay=0.3)
    names = {id(p): name for name, p in model.backbone.named_parameters()}
    decays = {
        names[id(p)]: g["weight_decay"] for g in model.parameter_groups() for p in g["params"]
    }
    assert decays.keys() == set(names.values())
    for name, parameter in model.backbone.named_parameters():
        assert decays[name] == (0.3 if parameter.ndim > 1 else 0), name


@pytest.mark.parametrize("option", ["depth=null", "dpeth=null", "'depth:2'=null"])
def test_an_option_that_is_null_is_named(tmp_path, capsys, option):
    """timm would drop it. A checkpoint of before may have one, and is read as it was."""
    key = option.partition("=")[0].strip("'")
    given = f'model.model_options={{embed_dim: 48, num_heads: 2, "{key}": null}}'
    new = of_images(tmp_path, tmp_path / "run", "vit_tiny_patch16_224", given)
    with pytest.raises(SystemExit) as exit_:
        train.main(new)
    assert exit_.value.code == 2 and not (tmp_path / "run").exists()
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(f"train.py: model.model_options.{key} is null; accepted: a value")
    old = ViTClassifier(["a", "b"], INPUT, name="test_vit", model_options={key: None})
    assert old.backbone is not None


@pytest.mark.parametrize("name", ["test_vit", "resnet18"])
def test_an_option_that_timms_model_does_not_have_is_named(name):
    with pytest.raises(InputError, match="'dpeth'.*accepted"):
        ViTClassifier(["a", "b"], INPUT, name=name, model_options={"dpeth": 2})


def test_a_tag_that_there_is_not_is_named():
    with pytest.raises(InputError, match="tag .nope. for test_vit.*accepted"):
        ViTClassifier(["a", "b"], INPUT, name="test_vit.nope")


# ---------------------------------------------------------------- Hugging Face's configuration


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"hiden_size": 64}, "hiden_size .* 'bert'; accepted: hidden_size"),
        ({"dim": 64}, "dim .* 'bert'"),
        ({"model_type": "distilbert"}, "intermediate_size .* 'distilbert'"),
        ({"frobnicate": 1}, "frobnicate .*accepted: .*hidden_size.*vocab_size"),
        ({"id2label": {0: "a"}}, "id2label .*classes of the data; accepted"),
        ({"problem_type": "regression"}, "problem_type .*it follows from task; accepted"),
        ({"attn_implementation": "eager"}, "attn_implementation .*model.attention; accepted"),
        ({"return_dict": False}, "return_dict .*; accepted"),
    ],
    ids=str,
)
def test_a_key_that_has_no_effect_is_named(config, named):
    with pytest.raises(InputError, match=f"model.config.{named}"):
        bert(BERT | config)


def test_a_key_within_a_configuration_is_named_with_its_place():
    default = AutoConfig.for_model("clip")
    check_keys({"text_config": {"hidden_size": 64}}, default)
    with pytest.raises(InputError, match="model.config.text_config.hiden_size .*hidden_size"):
        check_keys({"text_config": {"hiden_size": 64}}, default)


def test_every_name_of_an_option_that_the_class_knows_is_accepted():
    """hidden_size, which is dim there; num_labels, a property; null where it is a value."""
    config = {"model_type": "distilbert", "hidden_size": 24, "n_layers": 1, "n_heads": 2}
    model = bert(config | {"hidden_dim": 32, "num_labels": 2})
    assert model.backbone.config.dim == 24
    assert bert(BERT | {"classifier_dropout": None}).backbone.config.classifier_dropout is None
    with pytest.raises(InputError, match="'hidden_size' expected int"):
        bert(BERT | {"hidden_size": None})


def test_a_configuration_that_was_saved_is_taken_with_what_other_versions_knew(tmp_path):
    """So that checkpoints of models from elsewhere go on to load."""
    old = {"gradient_checkpointing": False, "position_embedding_type": "absolute"}
    saved = BertConfig(**SIZES, vocab_size=55, **old).to_dict()
    assert old.items() <= saved.items()
    assert bert(saved).backbone.config.gradient_checkpointing is False
    save_text_classifier(tmp_path, **old)
    model = BertClassifier(
        ["a", "b"], input_config_of(tokenizer_of(), 20, None), name=str(tmp_path)
    )
    again = bert(model.without_sources()["config"])
    assert again.backbone.config.position_embedding_type == "absolute"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_training_is_in_the_trainers_precision_whatever_the_weights_were_saved_in(tmp_path, dtype):
    save_text_classifier(tmp_path).to(dtype).save_pretrained(tmp_path)
    model = BertClassifier(
        ["a", "b"], input_config_of(tokenizer_of(), 20, None), name=str(tmp_path)
    )
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_what_the_model_pads_is_no_part_of_the_picture():
    """A picture of 36 x 36 is padded to 40 x 40 by the model: five patches of 8 pixels a side."""
    torch.manual_seed(0)
    options = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    options |= {"dynamic_img_size": True, "dynamic_img_pad": True}
    inputs = {"input_size": [3, 36, 36], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0}
    module = ViTClassifier(["a", "b"], inputs, "vit_tiny_patch16_224", model_options=options).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (36, 36, 3), dtype=np.uint8)
    explanation = module.explain(module.prepare([Image.fromarray(pixels)]))
    drawn = ExplainedImages.of(explanation).arrays()
    assert drawn.shape == (1, 36, 36)
    # Between the centres of patches, at 4, 12, ..., 36 of 40 pixels; the last is at the edge.
    padded = explanation.relevance.unflatten(-1, (5, 5))[:, None]
    whole = F.interpolate(padded, (40, 40), mode="bilinear")[:, 0, :36, :36]
    np.testing.assert_allclose(drawn, whole.numpy(), atol=1e-6)
