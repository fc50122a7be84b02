"""What the tracker and the protocols score of several labels, against slow loops over each."""

import pytest
import torch

import relprop
from lightning_modules import ViTClassifier
from lightning_modules.callbacks.watch import Watch
from lightning_modules.data import DigitsDataModule
from lightning_modules.metrics import PerturbationAccuracy, Segmentation, perturb
from lightning_modules.metrics.perturbation import STEPS
from lightning_modules.protocols import PROTOCOLS, evaluate, values_of

SMALL = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
SIZE = 5


@pytest.fixture(scope="module")
def data():
    return DigitsDataModule(
        task="multilabel", train_size=1, val_size=SIZE, test_size=SIZE, pairs_size=2, batch_size=3
    )


@pytest.fixture(scope="module")
def module(data):
    torch.manual_seed(0)
    options = {"name": "vit_tiny_patch16_224", "model_options": SMALL, "task": "multilabel"}
    module = ViTClassifier(data.class_names, data.input_config, threshold=0.45, **options)
    module.double().eval()  # no rounding decides which pixels are above the mean
    for parameter in module.backbone.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return module


def labels_of(dataset):
    """Each sample, and each label that it has."""
    for sample in (dataset[i] for i in range(SIZE)):
        for label in sample["label"].nonzero()[:, 0].tolist():
            yield sample, label


def heatmap(module, image, label):
    explanation = relprop.explain(module.backbone, image[None].double(), label, "attnlrp")
    return explanation.heatmap(image.shape[-2:])


def near(value: float, name: str):
    """Average precision depends on how rounding ranks pixels that are interpolated to a tie."""
    return pytest.approx(value, abs=1e-3 if name == "mAP" else 1e-6)


def expected_segmentation(module, dataset) -> dict[str, float]:
    metric = Segmentation()
    for sample, label in labels_of(dataset):
        assert sample["mask"][label].any()
        metric.update(heatmap(module, sample["image"], label), sample["mask"][label][None])
    return {name: float(value) for name, value in metric.compute().items()}


def test_the_tracker_scores_the_map_of_each_label_against_its_own_digit(module, data):
    watch = Watch(module, data, {"method": "attnlrp"}, epoch=0)
    found = watch.samples(range(SIZE)).scalars
    for name, value in expected_segmentation(module, data.val_dataset).items():
        assert float(found[name]) == near(value, name), name


def scores(module, data, name: str) -> dict:
    *_, progress = evaluate(PROTOCOLS[name](module, data), ["attnlrp"], {})
    return values_of(progress.metrics["attnlrp"])


def test_segmentation_is_of_each_label(module, data):
    found = scores(module, data, "segmentation")
    for name, value in expected_segmentation(module, data.test_dataset).items():
        assert found[name, None] == near(value, name), name


def test_perturbation_asks_whether_each_label_is_still_found(module, data):
    black = torch.full((3,), -1.0)  # of pixels from -1 to 1
    for order in ("positive", "negative"):
        of_target, of_predicted = PerturbationAccuracy(), PerturbationAccuracy()

        def found(image, label, asked, order=order):
            """Whether one label is found at each step, pixels removed by the map of another."""
            map_ = heatmap(module, image, asked)
            steps = [perturb(image[None], map_, x, order == "positive", black) for x in STEPS]
            with torch.no_grad():
                logits = module.backbone(torch.cat(steps).double())
            return (logits.sigmoid()[:, label] >= 0.45).long()[None]

        for sample, label in labels_of(data.test_dataset):
            of_target.update(found(sample["image"], label, label), torch.ones(1).long())
        for sample in (data.test_dataset[i] for i in range(SIZE)):
            with torch.no_grad():
                highest = int(module.backbone(sample["image"][None].double()).argmax())
            right = found(sample["image"], highest, highest) * int(sample["label"][highest])
            of_predicted.update(right, torch.ones(1).long())
        result = scores(module, data, "perturbation")
        for name, metric in (("target", of_target), ("predicted", of_predicted)):
            for step, value in zip(metric.places, metric.compute()["accuracy"], strict=True):
                key = (f"{order}_{name}/accuracy", step)
                assert result[key] == pytest.approx(float(value), abs=1e-6), key
        assert 0 < float(of_target.compute()["auc"]) < 1
