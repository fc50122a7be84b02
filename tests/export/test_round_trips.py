"""An exported folder, loaded by its card's commands, gives the logits of the run to the bit."""

import pytest
import torch

from lightning_modules.data.texts.pairs import Pair
from lightning_modules.data.texts.tokenizers import input_config_of, train_tokenizer
from lightning_modules.tasks import ACTIVATIONS
from tests.helpers.exports import SQUASHED, export, input_config, loaded, of_run, picture, save_run
from tests.helpers.published import (
    IMAGE_CLASSIFIERS,
    SIZES,
    VIT,
    save_image_classifier,
    tokenizer_of,
)

SMALL = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
TIMM = {  # the name of a model, the options of the classifier
    "plain": ("vit_tiny_patch16_224", {"model_options": SMALL}),
    "distilled": ("deit_tiny_distilled_patch16_224", {"model_options": SMALL}),
    "registers": (
        "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
        {"model_options": SMALL | {"init_values": 0.1, "reg_tokens": 2}, "task": "multilabel"},
    ),
    "adapted": ("vit_tiny_patch16_224", {"model_options": SMALL, "lora": {"rank": 2}}),
    "convolutions": ("resnet10t", {"model_options": {"stem_width": 4}, "task": "regression"}),
}
REGISTERS = {name: x for name, x in VIT.items() if name != "intermediate_size"}
REGISTERS |= {"model_type": "dinov2_with_registers", "num_register_tokens": 2}
HF = {
    "plain": {"config": VIT},
    "registers": {"config": REGISTERS, "task": "multilabel"},
    "stages": {"config": IMAGE_CLASSIFIERS["ConvNext"][0] | {"model_type": "convnext"}},
    "number": {"config": VIT, "task": "regression", "names": ["how much"]},
    "adapted": {"config": VIT, "lora": {"rank": 2}},
}
TEXTS = {
    "plain": {"config": SIZES},
    "adapted": {"config": SIZES, "lora": {"rank": 2}},
    "roberta": {"config": SIZES | {"model_type": "roberta"}, "task": "multilabel"},
    "distilbert": {
        "config": {"model_type": "distilbert", "dim": 32, "n_layers": 2, "n_heads": 2},
        "task": "regression",
        "names": ["stars"],
    },
}


def of_transformers(folder, monkeypatch):
    """The pipeline of the card, its weights moved to memory of their own.

    transformers maps the file into memory, where a tensor begins at any byte, and by that torch
    chooses kernels that round otherwise.
    """
    classify = loaded(folder, monkeypatch)["classify"]
    for parameter in classify.model.parameters():
        parameter.data = parameter.data.clone()
    for buffer in classify.model.buffers():
        buffer.data = buffer.data.clone()
    return classify


def same_logits(run, model, *inputs, **named) -> None:
    """``model`` is called with the inputs, or with those of a model of transformers by name."""
    classifier = of_run(run)
    with torch.no_grad():
        ours = classifier.of_backbone(named or inputs[0])
        theirs = model(*inputs, **named)
    theirs = getattr(theirs, "logits", theirs)
    assert ours.std() > 0.01 or ours.numel() < 3
    assert torch.equal(ours, theirs)


def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def same_scores(run, classify, content, given) -> None:
    """The pipeline's scores of all classes are those of the run, which prepares inputs itself."""
    classifier = of_run(run)
    with torch.no_grad():
        logits = classifier(classifier.prepare([content]))
    activation = classifier.activation
    ours = (ACTIVATIONS[activation](logits) if activation else logits)[0].tolist()
    names = classifier.hparams.class_names
    scores = {x["label"]: x["score"] for x in classify(given, top_k=len(names))}
    assert [scores[name] for name in names] == pytest.approx(ours, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("case", TIMM)
def test_a_model_of_timm_is_the_same_in_every_format(case, tmp_path, monkeypatch):
    name, options = TIMM[case]
    run = save_run(tmp_path / "run", "vit", input_config(**SQUASHED), name=name, **options)
    of_timm = loaded(export(run, "timm"), monkeypatch)
    same_logits(run, of_timm["model"], pixels())
    assert of_timm["model"].pretrained_cfg["label_names"] == of_run(run).hparams.class_names
    alone = loaded(export(run, "safetensors"), monkeypatch)
    same_logits(run, alone["model"], pixels())
    made = of_transformers(export(run, "hf"), monkeypatch)
    same_logits(run, lambda x: made.model(pixel_values=x), pixels())
    content = picture(run)
    same_scores(run, made, content, content)
    with torch.no_grad():  # timm's own transform is that of evaluation as well
        ours = of_run(run)(of_run(run).prepare([content]))[0]
    assert torch.equal(of_timm["logits"], ours)


@pytest.mark.parametrize("case", HF)
def test_an_image_classifier_of_transformers_is_the_same_in_every_format(
    case, tmp_path, monkeypatch
):
    run = save_run(tmp_path / "run", "hf_image", input_config(), **HF[case])
    alone = loaded(export(run, "safetensors"), monkeypatch)
    same_logits(run, alone["model"], pixel_values=pixels())
    made = of_transformers(export(run, "hf"), monkeypatch)
    same_logits(run, made.model, pixel_values=pixels())
    same_scores(run, made, picture(run), picture(run))


def test_a_distilled_model_of_transformers_stays_one(tmp_path, monkeypatch):
    begin = tmp_path / "begin"
    teacher = "DeiTForImageClassificationWithTeacher"
    save_image_classifier(begin, "DeiT", architectures=[teacher])
    names = ["x", "y", "z"]
    run = save_run(tmp_path / "run", "hf_image", input_config(), names, name=str(begin))
    made = of_transformers(export(run, "hf"), monkeypatch)
    assert type(made.model) is type(of_run(run).backbone)
    same_logits(run, made.model, pixel_values=pixels())


@pytest.mark.parametrize("case", TEXTS)
def test_a_text_classifier_is_the_same_in_every_format(case, tmp_path, monkeypatch):
    config = input_config_of(tokenizer_of(), 24, None)
    run = save_run(tmp_path / "run", "bert", config, **TEXTS[case])
    classifier = of_run(run)
    texts = ["the cat sat on the mat", "a dog ran home, sad and wet! " * 9]
    inputs = classifier.inputs(classifier.prepare(texts))
    alone = loaded(export(run, "safetensors"), monkeypatch)
    same_logits(run, alone["model"], **inputs)
    made = of_transformers(export(run, "hf"), monkeypatch)
    same_logits(run, made.model, **inputs)
    for text in texts:  # the second is longer than the model reads
        same_scores(run, lambda x, **more: made(x, truncation=True, **more), text, text)


def test_a_classifier_of_pairs_reads_both_texts(tmp_path, monkeypatch):
    tokenizer = train_tokenizer(["the cat sat on the mat", "a dog ran home, sad"] * 3, 200, True)
    config = input_config_of(tokenizer, 24, None) | {"pairs": True}
    run = save_run(tmp_path / "run", "bert", config, config=SIZES)
    made = of_transformers(export(run, "hf"), monkeypatch)

    def classify(pair, **options):
        return made({"text": pair.first, "text_pair": pair.second}, truncation=True, **options)

    pairs = [Pair("the cat sat", "on the mat"), Pair("on the mat", "the cat sat " * 9)]
    for pair in pairs:
        same_scores(run, classify, pair, pair)
    logits = of_run(run)(of_run(run).prepare(pairs))
    assert (logits[0] - logits[1]).abs().max() > 0.01
