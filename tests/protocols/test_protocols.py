"""The protocols on small runs, and their parts against the slow way to say the same."""

import io
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file

import explain
import relprop
from lightning_modules.data import DATAMODULES
from lightning_modules.metrics import (
    EnergyInside,
    Faithfulness,
    RankCorrelation,
    RationaleAUPRC,
)
from lightning_modules.metrics import Segmentation as SegmentationMetric
from lightning_modules.models.checkpoints import load_classifier
from lightning_modules.models.vit import ViTClassifier
from lightning_modules.protocols import (
    PROTOCOLS,
    Score,
    evaluate,
    scored_methods,
    scores_of,
    values_of,
)
from lightning_modules.protocols.base import Explainer
from lightning_modules.protocols.localisation import Segmentation
from lightning_modules.protocols.rationales import SHARES
from lightning_modules.protocols.report import table
from lightning_modules.utils.checkpoint_files import find_checkpoint
from tests.helpers.runs import ONE_EPOCH

pytestmark = pytest.mark.usefixtures("few_draws")

SMALL = {"train_size": 60, "val_size": 20, "test_size": 20}


@pytest.fixture(scope="module")
def digits(trained) -> Path:
    return trained(*ONE_EPOCH)


@pytest.fixture(scope="module")
def reviews(trained) -> Path:
    return trained(*ONE_EPOCH, experiment="reviews")


@pytest.fixture(scope="module")
def images(digits):
    """A classifier and its data."""
    return load_classifier(find_checkpoint(digits)), DATAMODULES["digits"](batch_size=8, **SMALL)


@pytest.fixture(scope="module")
def texts(reviews):
    data = DATAMODULES["reviews"](batch_size=8, vocab_size=300, **SMALL)
    return load_classifier(find_checkpoint(reviews)), data


def measured(name, module, data, methods, limit=12) -> dict[str, dict]:
    """The metrics of each method."""
    protocol = PROTOCOLS[name](module, data)
    *_, progress = evaluate(protocol, methods, {}, limit)
    return progress.metrics


@pytest.mark.parametrize("protocol", ["perturbation", "segmentation", "specificity", "sanity"])
def test_every_method_is_scored_on_images(digits, protocol, tmp_path, capsys):
    arguments = ["--protocol", protocol, "--limit", "6", "--output", str(tmp_path)]
    explain.main(["evaluate", "--checkpoint", str(digits), *arguments])
    printed = capsys.readouterr().out
    of_all = {
        name
        for name, known in scored_methods().items()
        if not (known.diagnosis or known.texts or known.pooled)
    }
    scores = json.loads((tmp_path / "scores.json").read_text())["scores"]
    assert {score["method"] for score in scores} == of_all
    assert all(method in printed for method in of_all)
    for score in scores:
        assert -1 <= score["low"] <= score["value"] + 1e-9
        assert score["value"] <= score["high"] + 1e-9 <= 1 + 2e-9
    assert (tmp_path / "scores.png").stat().st_size > 5000


def test_an_evaluation_that_was_cut_off_goes_on(digits, tmp_path, monkeypatch, capsys):
    def evaluate_(folder, *more):
        few = ["--method", "rollout", "lrp", "random", "data.batch_size=4", "--limit", "14"]
        output = ["--output", str(tmp_path / folder), *more]
        explain.main(
            ["evaluate", "--checkpoint", str(digits), "--protocol", "segmentation", *few, *output]
        )
        return json.loads((tmp_path / folder / "scores.json").read_text())

    whole = evaluate_("whole")
    update, calls = Segmentation.update, []

    def cut_off(self, metrics, explain):
        calls.append(explain.batch["index"].tolist())
        if len(calls) == 8:  # the second method of the third batch
            raise KeyboardInterrupt
        update(self, metrics, explain)

    monkeypatch.setattr(Segmentation, "update", cut_off)
    with pytest.raises(KeyboardInterrupt):
        evaluate_("cut")
    resumed = evaluate_("cut", "--resume")
    assert calls[8] == [8, 9, 10, 11]  # the third batch again, from its first method
    assert resumed == whole
    assert not list((tmp_path / "cut").glob(".*"))

    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        evaluate_("other")
    with pytest.raises(SystemExit) as exit_:
        evaluate_("other", "--resume", "start_layer=1")
    assert exit_.value.code == 2
    assert "another options" in capsys.readouterr().err


def test_a_method_that_does_not_apply_is_listed_with_the_reason(
    digits, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    arguments = ["--method", "saliency", "rollout", "--limit", "4", "--output", str(tmp_path)]
    explain.main(
        ["evaluate", "--checkpoint", str(digits), "--protocol", "segmentation", *arguments]
    )
    printed = capsys.readouterr().out
    assert "saliency: does not apply: " in printed and "pip install captum" in printed
    said = json.loads((tmp_path / "scores.json").read_text())
    assert {score["method"] for score in said["scores"]} == {"rollout"}
    assert "saliency" in said["does_not_apply"]


def test_integrated_gradients_add_up(images, texts):
    """Completeness: over all pixels, or words, they sum to the change of the logit."""
    module, data = images
    batch = {"image": torch.stack([data.test_dataset[i]["image"] for i in range(2)])}
    trace = module.record(batch)
    found = Explainer(module, trace, batch, "integrated_gradients", {}, "image")(3)
    black = torch.full_like(batch["image"], -1.0)
    change = (module.backbone(batch["image"]) - module.backbone(black))[:, 3]
    torch.testing.assert_close(found.relevance.sum(1), change, rtol=0.1, atol=0.05)
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_a_model_of_a_library_is_scored_on_data_of_the_command_line(tmp_path, capsys):
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=2)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            Image.new("RGB", (40, 40), "red").save(tmp_path / "data" / split / name / "a.png")
    command = ["evaluate", "--timm", f"vit_tiny_patch16_224@{tmp_path / 'weights.safetensors'}"]
    command += ["--protocol", "perturbation", "--method", "rollout", "--output", str(tmp_path)]
    command += ["data.kind=image_folder", f"data.root={tmp_path / 'data'}", "data.image_size=32"]
    with pytest.raises(SystemExit):
        explain.main(command)
    assert "the data's mean is" in capsys.readouterr().err  # ImageNet's; the model wants 0.5
    explain.main([*command, "data.transforms_of=vit_tiny_patch16_224.augreg_in21k_ft_in1k"])
    assert json.loads((tmp_path / "scores.json").read_text())["samples"] == 2


@pytest.mark.parametrize(
    ("protocol", "kind", "named"),
    [
        ("rationales", "digits", "the data are images"),
        ("segmentation", "reviews", "the data are texts; accepted: images"),
        ("specificity", "reviews", "the data are texts; accepted: images"),
    ],
)
def test_data_that_a_protocol_cannot_use_are_told(request, capsys, protocol, kind, named):
    run_dir = request.getfixturevalue(kind)
    with pytest.raises(SystemExit) as exit_:
        explain.main(["evaluate", "--checkpoint", str(run_dir), "--protocol", protocol])
    assert exit_.value.code == 2
    assert named in capsys.readouterr().err.strip().splitlines()[-1]


def test_perturbation_is_what_a_loop_over_images_finds(images):
    """One image, one step, one order at a time, and the target's map made for every image."""
    module, data = images
    metrics = measured("perturbation", module, data, ["transformer_attribution"], limit=20)
    del metrics["transformer_attribution"]["probability"]  # of tests/protocols/test_removal.py
    config = module.hparams.input_config
    black = -torch.tensor(config["mean"]) / torch.tensor(config["std"])
    found = {name: [] for name in metrics["transformer_attribution"]}
    mistakes = 0
    for index in range(20):
        sample = data.test_dataset[index]
        image, label = sample["image"][None], sample["label"]
        predicted = int(module.backbone(image).argmax())
        mistakes += predicted != label
        for name in found:
            order, _, of = name.partition("_")
            target = predicted if of == "predicted" else label
            heatmap = module.explain({"image": image}, target).heatmap(32)[0].flatten()
            ranked = heatmap.argsort(descending=order == "positive")
            right = []
            for step in range(1, 10):
                changed = image.clone().flatten(2)
                changed[0, :, ranked[: int(step / 10 * 1024)]] = black[:, None]
                guess = module.backbone(changed.view_as(image)).argmax()
                right.append(float(guess == label))
            found[name].append(right)
    assert mistakes > 0
    for name, metric in metrics["transformer_attribution"].items():
        ours = metric.compute()["accuracy"].numpy()
        # Patches of equal relevance may go in another order.
        np.testing.assert_allclose(ours, np.mean(found[name], axis=0), atol=0.051)


def test_sanity_catches_a_method_that_is_blind_to_the_weights(images):
    @relprop.method("from_left_to_right")
    def from_left_to_right(trace, target, options):
        tokens = trace.attention[-1].shape[-1]
        return torch.arange(tokens).float().expand(len(target), -1)

    try:
        blind = ["from_left_to_right", "rollout", "random", "constant"]
        metrics = measured("sanity", *images, [*blind, "transformer_attribution"])
    finally:
        del relprop.METHODS["from_left_to_right"]
    scores = {
        method: [float(of_method[of].compute()["rank_correlation"]) for of in ("head", "all")]
        for method, of_method in metrics.items()
    }
    assert scores["from_left_to_right"] == pytest.approx([1, 1])
    assert scores["constant"] == [1, 1]  # it has no order, and stays as it was all the same
    assert scores["rollout"][0] == pytest.approx(1, abs=1e-6)  # it does not look at the head
    assert abs(scores["transformer_attribution"][1]) < 0.6


def test_a_constant_map_has_the_score_of_one_that_says_nothing(images, texts):
    def scores(protocol, module, data):
        found = measured(protocol, module, data, ["constant"])["constant"]
        return {name: value for (name, _), value in values_of(found).items()}

    masks = torch.stack([images[1].test_dataset[i]["mask"] for i in range(12)]).bool()
    found = scores("segmentation", *images)
    shares = (found["inside/energy"], found["pointing_game/hits"])
    assert shares == pytest.approx([masks.double().mean().item()] * 2)
    assert scores("specificity", *images) == {"class_specificity": 0.5}
    assert scores("properties", *texts)["complexity/entropy"] == 1


def test_a_model_without_attention_is_compared_with_chance_too(images):
    data = images[1]
    small = {"channels": [8, 8, 8, 8], "stem_width": 8}
    network = ViTClassifier(data.class_names, data.input_config, "resnet10t", model_options=small)
    found = measured("specificity", network.eval(), data, ["random", "constant"])
    scores = {name: values_of(x)["class_specificity", None] for name, x in found.items()}
    assert scores["constant"] == 0.5
    assert scores["random"] == pytest.approx(0.5, abs=0.05)
    assert scores["random"] != 0.5


def test_the_model_is_as_before_a_sanity_check(images):
    module, data = images
    before = {name: value.clone() for name, value in module.state_dict().items()}
    measured("sanity", module, data, ["rollout"])
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_the_head_is_the_head(images, texts):
    for module, data in (images, texts):
        protocol = PROTOCOLS["sanity"](module, data)
        protocol.prepare()
        other = protocol.random["head"].backbone.state_dict()
        changed = {
            name.partition(".")[0]
            for name, value in module.backbone.state_dict().items()
            if not torch.equal(value, other[name])
        }
        assert changed == {"head"} if module.kind == "vit" else changed == {"classifier"}


def test_faithfulness_is_what_taking_words_out_does(texts):
    module, data = texts
    metrics = measured("rationales", module, data, ["transformer_attribution"], limit=6)
    falls = []
    for item in data.test_dataset.items[:6]:

        def p_of(text, target):
            return float(module(module.prepare([text])).softmax(-1)[0, target])

        explained = module.explain(module.prepare([item["text"]]))
        target = int(explained.target[0])
        words = item["text"].split()
        ranked = explained.word_scores[0].argsort(descending=True).tolist()
        full, comprehensiveness, sufficiency = p_of(item["text"], target), 0.0, 0.0
        for share in SHARES:
            top = ranked[: math.ceil(share * len(words))]
            without = " ".join(w for i, w in enumerate(words) if i not in top)
            alone = " ".join(w for i, w in enumerate(words) if i in top)
            comprehensiveness += full - p_of(without, target)
            sufficiency += full - p_of(alone, target)
        falls.append((comprehensiveness / 6, sufficiency / 6))
    computed = metrics["transformer_attribution"]["faithfulness"].compute()
    expected = np.mean(falls, axis=0)
    ours = [float(computed[name]) for name in ("comprehensiveness", "sufficiency")]
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_faithfulness_by_hand():
    metric = Faithfulness()
    metric.update(torch.tensor([0.9]), torch.tensor([[0.6, 0.3]]), torch.tensor([[0.5, 0.9]]))
    scores = metric.compute()
    assert scores["comprehensiveness"].item() == pytest.approx((0.3 + 0.6) / 3)
    assert scores["sufficiency"].item() == pytest.approx((0.4 + 0.0) / 3)


def test_auprc_by_hand():
    """Ranked: a rationale word, another, a rationale word that was cut off; padding is left out."""
    metric = RationaleAUPRC()
    metric.update(
        torch.tensor([[0.9, 0.5, 0.0, 7.0]]),
        torch.tensor([[True, False, True, False]]),
        torch.tensor([[True, True, False, False]]),
        torch.tensor([3]),
    )
    # Points (recall, precision): (0, 1), (1/2, 1), (1/2, 1/2), (1, 2/3).
    area = 0.5 * 1 + 0.5 * (1 / 2 + 2 / 3) / 2
    assert metric.compute()["auprc"].item() == pytest.approx(area)


def test_a_map_whose_sign_alone_a_random_head_turns_is_blind_to_it():
    metric = RankCorrelation()
    maps = torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]])
    metric.update(maps, maps * torch.tensor([[1.0], [-1.0]]))
    assert metric.compute()["rank_correlation"].item() == pytest.approx(1, abs=1e-5)


def test_a_scene_is_a_row_and_a_blind_map_has_a_half_in_each(images):
    metric = measured("specificity", *images, ["rollout"], limit=6)["rollout"][""]
    assert metric.in_order().tolist() == pytest.approx([0.5] * 6, abs=1e-5)


def test_a_mosaic_is_a_row_and_a_blind_map_has_a_quarter_in_each():
    maps, cells = torch.rand(5, 2, 2), torch.eye(4, dtype=torch.bool).view(4, 2, 2)
    metric = EnergyInside()
    metric.update(maps.repeat_interleave(4, dim=0), cells.repeat(5, 1, 1), maps=4)
    assert metric.in_order().tolist() == pytest.approx([0.25] * 5)


def test_rank_correlation_by_hand():
    metric = RankCorrelation()
    nan = float("nan")
    metric.update(torch.tensor([[1.0, 2.0, 3.0, nan]]), torch.tensor([[0.1, 0.5, 0.3, 9.0]]))
    metric.update(torch.tensor([[1.0, 1.0, 1.0, 1.0]]), torch.tensor([[0.1, 0.5, 0.3, 9.0]]))
    # 1 - 6 sum d^2 / (n (n^2 - 1)), ranks 1 2 3 and 1 3 2; a map without order counts 0.
    assert metric.compute()["rank_correlation"].item() == pytest.approx((0.5 + 0) / 2, abs=1e-6)


def test_metrics_gather_as_one(images):
    """What two processes would gather: the rows of both, one after the other."""
    maps, masks = torch.rand(8, 4, 4), torch.rand(8, 4, 4) > 0.5
    whole, halves = SegmentationMetric(), [SegmentationMetric(), SegmentationMetric()]
    whole.update(maps, masks)
    for half, part in zip(halves, (slice(0, 3), slice(3, 8)), strict=True):
        half.update(maps[part], masks[part])
    halves[0].merge_state(halves[1])
    for name, value in whole.compute().items():
        assert torch.equal(value, halves[0].compute()[name]), name
    assert scores_of("x", {"s": whole}) == scores_of("x", {"s": halves[0]})


def test_the_papers_figures_stand_beside_ours_on_its_data_alone():
    scores = [
        Score(method, column.name, None, 0.5, 0.4, 0.6)
        for method in ("transformer_attribution", "saliency")
        for column in PROTOCOLS["segmentation"].columns
    ]

    def printed(kind):
        console = Console(width=120, record=True, file=io.StringIO())
        console.print(table(PROTOCOLS["segmentation"], scores, "title", kind))
        return console.export_text()

    ours, theirs = printed("imagenet_segmentation"), printed("digits")
    assert "paper" in ours and "79.70" in ours and "86.03" in ours and "61.95" in ours
    assert "paper" not in theirs and "79.7" not in theirs and "50.0" in theirs
