"""A folder that ``timm.create_model("local-dir:FOLDER")`` loads, and transformers as well."""

from __future__ import annotations

from pathlib import Path

from lightning_modules.export.base import EXPORTS, Export
from lightning_modules.export.timm_files import write_timm
from lightning_modules.models.classifier import Classifier


@EXPORTS.register("timm")
class TimmFolder(Export):
    """For models of timm's."""

    name = "timm"
    library = "timm"

    def __init__(self, classifier: Classifier) -> None:
        super().__init__(classifier)
        if not self.is_timm:
            raise self.refuse("a model of timm's (kind vit), or another --to, as hf or safetensors")

    def write(self, folder: Path) -> None:
        write_timm(self, folder)

    def usage(self, place: str) -> str:
        source = "local-dir:" if place == "FOLDER" else "hf-hub:"
        return f"""\
import timm
import torch
from PIL import Image

model = timm.create_model("{source}{place}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
picture = Image.open("picture.png").convert("RGB")
with torch.no_grad():
    logits = model(transform(picture)[None])[0]
for name, logit in zip(model.pretrained_cfg["label_names"], logits.tolist()):
    print(name, logit)
"""
