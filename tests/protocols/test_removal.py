"""Perturbation of pictures and of texts: what goes, what takes its place, and p meanwhile."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms.v2.functional import gaussian_blur

import explain
from lightning_modules.data import DATAMODULES
from lightning_modules.metrics import PerturbationProbability
from lightning_modules.models.checkpoints import load_classifier
from lightning_modules.protocols import PROTOCOLS, evaluate, values_of
from lightning_modules.utils.checkpoint_files import find_checkpoint
from lightning_modules.utils.errors import InputError
from tests.helpers.runs import ONE_EPOCH

SMALL = {"train_size": 60, "val_size": 20, "test_size": 20}
SHARES = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


@pytest.fixture(scope="module")
def digits(trained) -> Path:
    return trained(*ONE_EPOCH)


@pytest.fixture(scope="module")
def images(digits):
    """A classifier and its data."""
    return load_classifier(find_checkpoint(digits)), DATAMODULES["digits"](batch_size=4, **SMALL)


@pytest.fixture(scope="module")
def reviews(trained) -> Path:
    return trained(*ONE_EPOCH, experiment="reviews")


@pytest.fixture(scope="module")
def texts(reviews):
    data = DATAMODULES["reviews"](batch_size=4, vocab_size=300, **SMALL)
    return load_classifier(find_checkpoint(reviews)), data


def found(module, data, limit: int, **options) -> dict:
    """The numbers of attnlrp, whose map hardly has two equal entries."""
    protocol = PROTOCOLS["perturbation"](module, data, **options)
    *_, progress = evaluate(protocol, ["attnlrp"], {}, limit)
    return values_of(progress.metrics["attnlrp"])


def area(curve: list[float]) -> float:
    """By the trapezoid rule, over shares from 0 to 1."""
    return sum((a + b) / 2 * 0.1 for a, b in zip(curve, curve[1:], strict=False))


def filling(fill: str, image: torch.Tensor, data, index: int) -> torch.Tensor:
    if fill == "black":
        return torch.full_like(image, -1)
    if fill == "mean":
        return image.mean(dim=(1, 2))[:, None, None].expand_as(image)
    if fill == "blur":
        return gaussian_blur(image, 9, 2.0)  # 2 is 1/16 of 32
    label = data.test_dataset[index]["label"]
    places = [(index + 10 + step) % 20 for step in range(8)]
    others = [data.test_dataset[place] for place in places]
    return next(other["image"] for other in others if other["label"] != label)


@pytest.mark.parametrize("fill", ["black", "mean", "blur", "other"])
def test_the_probability_is_that_of_a_loop_over_pixels(images, fill):
    module, data = images
    module.double()  # no rounding decides which pixels go first
    deletion, insertion = [], []
    for index in range(6):
        image = data.test_dataset[index]["image"].double()
        whole = module.backbone(image[None]).softmax(dim=1)[0]
        target, pixels = int(whole.argmax()), image.flatten(1)
        put = filling(fill, image, data, index).double().flatten(1)
        heatmap = module.explain({"image": image[None]}, target, "attnlrp").heatmap(32)
        ranked = heatmap.flatten().argsort(descending=True)
        curves = ([], [])
        for share, left in zip(SHARES, reversed(SHARES), strict=True):
            gone, back = ranked[: int(share * 1024)], ranked[: 1024 - int(left * 1024)]
            without, into = pixels.clone(), put.clone()
            without[:, gone] = put[:, gone]
            into[:, back] = pixels[:, back]
            for curve, changed in zip(curves, (without, into), strict=True):
                p = module.backbone(changed.view_as(image)[None]).softmax(dim=1)[0, target]
                curve.append(float(p.detach()))
        deletion.append(curves[0])
        insertion.append(curves[1])
    numbers = found(module, data, 6, fill=fill)
    module.float()
    deletion, insertion = np.mean(deletion, axis=0), np.mean(insertion, axis=0)
    for share, p in zip(SHARES, deletion, strict=True):
        assert numbers["probability/most_relevant_first", share] == pytest.approx(p, abs=2e-3)
    assert numbers["probability/deletion", None] == pytest.approx(area(deletion), abs=2e-3)
    assert numbers["probability/insertion", None] == pytest.approx(area(insertion), abs=2e-3)
    difference = numbers["probability/insertion", None] - numbers["probability/deletion", None]
    assert numbers["probability/between", None] == pytest.approx(difference)


@pytest.mark.parametrize("fill", ["removed", "masked"])
def test_of_texts_words_go(texts, fill):
    module, data = texts
    most, accuracy = [], []
    for item in data.test_dataset.items[:5]:
        explained = module.explain(module.prepare([item["text"]]), method="attnlrp")
        target, words = int(explained.target[0]), item["text"].split()
        scores = explained.word_scores[0].tolist()
        ranked = sorted(range(len(words)), key=lambda i, scores=scores: -scores[i])
        curve = []
        for share in SHARES:
            gone = ranked[: int(share * len(words))]
            kept = [w if i not in gone else "[MASK]" for i, w in enumerate(words)]
            kept = [w for w in kept if fill == "masked" or w != "[MASK]"]
            with torch.no_grad():
                curve.append(module(module.prepare([" ".join(kept)])).softmax(dim=1)[0])
        most.append([float(p[target]) for p in curve])
        accuracy.append([int(p.argmax()) == item["label"] for p in curve])
    numbers = found(module, data, 5, fill=None if fill == "removed" else fill)
    for i, share in enumerate(SHARES):
        expected = np.mean(most, axis=0)[i]
        ours = numbers["probability/most_relevant_first", share]
        assert ours == pytest.approx(expected, abs=1e-5)
        if 0 < share < 1:
            expected = np.mean(accuracy, axis=0)[i]
            assert numbers["positive_predicted/accuracy", share] == expected


def test_areas_by_hand():
    metric = PerturbationProbability(steps=[0.2])
    metric.update(
        torch.tensor([1.0, 0.8]),
        torch.tensor([[0.3], [0.1]]),
        torch.tensor([[0.9], [0.7]]),
        torch.tensor([0.1, 0.1]),
    )
    # Of the means 0.9, 0.2, 0.1 and 0.9, 0.8, 0.1 at 0, 0.2 and 1.
    scores = metric.compute()
    deletion = 0.2 * (0.9 + 0.2) / 2 + 0.8 * (0.2 + 0.1) / 2
    insertion = 0.2 * (0.9 + 0.8) / 2 + 0.8 * (0.8 + 0.1) / 2
    assert scores["deletion"].item() == pytest.approx(deletion)
    assert scores["insertion"].item() == pytest.approx(insertion)
    assert scores["between"].item() == pytest.approx(insertion - deletion)


@pytest.mark.usefixtures("few_draws")
def test_the_fill_is_an_option_and_names_the_folder(digits, tmp_path, capsys):
    (tmp_path / "run").symlink_to(digits)
    explain.main(
        [
            *("evaluate", "--checkpoint", str(digits), "--protocol", "perturbation"),
            *("--method", "rollout", "random", "--limit", "4", "protocol.fill=blur"),
        ]
    )
    assert "fill: blur" in " ".join(capsys.readouterr().out.split())
    assert (digits / "scores" / "perturbation-blur" / "scores.json").is_file()


@pytest.mark.parametrize(
    ("protocol", "option", "said"),
    [
        ("perturbation", "protocol.fill=pink", '"black" or "mean" or "blur"'),
        ("perturbation", "protocol.fil=mean", "did you mean fill?; accepted: fill"),
        ("perturbation", "protocol.fill=masked", "the data are images; accepted: black, mean"),
        ("sanity", "protocol.fill=mean", "protocol.fill: unknown key; accepted: none"),
    ],
)
def test_an_option_that_a_protocol_does_not_take_is_told(digits, protocol, option, said, capsys):
    with pytest.raises(SystemExit) as exit_:
        explain.main(
            [
                "evaluate",
                "--checkpoint",
                str(digits),
                "--protocol",
                protocol,
                "--limit",
                "1",
                option,
            ]
        )
    assert exit_.value.code == 2
    assert said in capsys.readouterr().err


def test_a_tokenizer_without_a_mask_token_is_told(texts):
    module, data = texts
    tokenizer = module.sources["text"].tokenizer
    token, tokenizer.mask_token = tokenizer.mask_token, None
    try:
        with pytest.raises(InputError, match="no mask token; accepted: removed"):
            PROTOCOLS["perturbation"](module, data, fill="masked")
    finally:
        tokenizer.mask_token = token
