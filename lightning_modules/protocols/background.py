"""Background: does the model itself hang on what is behind the object?"""

from __future__ import annotations

from collections.abc import Mapping

from torch.utils.data import Dataset

from lightning_modules.backgrounds import Backgrounds
from lightning_modules.data import DataModule
from lightning_modules.metrics import BackgroundEffect, SampledMetric
from lightning_modules.models.classifier import Classifier
from lightning_modules.protocols.base import PROTOCOLS, Column, Protocol
from lightning_modules.protocols.explainer import Explainer
from lightning_modules.utils.errors import InputError


@PROTOCOLS.register("background")
class Background(Protocol):
    """Of each test sample whose object is known, what the model decides on another background.

    The object of a picture is its mask, that of a text its rationale. Each stands on the background
    of another sample, whose own object is filled in or left out. No map is needed.
    """

    of_model = True
    tasks = ("multiclass", "multilabel")
    title = "does the decision hang on the background"
    columns = [
        Column("another changes it", "background_effect", better="lower"),
        Column("own, as control", "background_control", better="lower"),
        Column("accuracy, object only", "object_only", better="higher"),
        Column("accuracy", "accuracy", better="higher"),
    ]

    def __init__(self, module: Classifier, data: DataModule) -> None:
        super().__init__(module, data)
        self.backgrounds: Backgrounds | None = None

    def samples(self) -> Dataset:
        self.backgrounds = Backgrounds.of(self.module, self.data, self.data.test_dataset)
        if self.backgrounds is None:
            raise InputError(
                "--protocol background: fewer than two test samples have a mask or a rationale; "
                "accepted: images with masks, as digits, or image_folder with a folder masks/test; "
                "texts with rationales, as reviews"
            )
        return self.backgrounds.samples

    def metrics(self, **options) -> dict[str, SampledMetric]:
        return {"": BackgroundEffect(**options)}

    def update(self, metrics: Mapping[str, SampledMetric], explain: Explainer) -> None:
        metric, places = metrics[""].to(self.module.device), explain.batch["index"].tolist()
        self.backgrounds.measure(metric, explain.batch, places, self.module)
