"""The weights alone, by the names that the model's own library gives them."""

from __future__ import annotations

from pathlib import Path

from lightning_modules.export.base import EXPORTS, Export, is_hugging_face
from lightning_modules.export.timm_files import about_export, model_args
from lightning_modules.models.dape import is_adapted
from lightning_modules.models.hf_backbone import saved_config
from lightning_modules.models.weights_file import save_weights


@EXPORTS.register("safetensors")
class WeightsFile(Export):
    """For any model: ``model.safetensors``, whose header says what it is; texts' tokenizer."""

    name = "safetensors"

    @property
    def library(self) -> str:
        if is_hugging_face(self.backbone):
            return "transformers"
        return "timm" if self.is_timm else "pytorch"

    def write(self, folder: Path) -> None:
        model = {}
        if self.is_timm:
            name = self.backbone.pretrained_cfg["architecture"]
            model = {"name": name, "model_options": model_args(self.classifier)}
        elif is_hugging_face(self.backbone):
            model = {"config": saved_config(self.backbone)}
        if is_adapted(self.backbone):
            model |= {x: self.classifier.hparams[x] for x in ("attention", "dape", "positions")}
        about = about_export(self, model)
        save_weights(self.backbone.state_dict(), folder / "model.safetensors", about)
        self.save_tokenizer(folder)

    def usage(self, place: str) -> str:
        reading = f"""\
import json

from safetensors import safe_open
from safetensors.torch import load_file

path = "{place if place == "FOLDER" else "FOLDER"}/model.safetensors"
with safe_open(path, "pt") as file:
    about = json.loads(file.metadata()["relprop"])  # class_names, task, input_config, model
"""
        return reading + self.making()

    def making(self) -> str:
        """Python that makes the model of ``about``, as its library does."""
        if self.is_timm:
            return """
import timm

made = about["model"]
classes = len(about["class_names"])
model = timm.create_model(made["name"], num_classes=classes, **made["model_options"]).eval()
model.load_state_dict(load_file(path))
"""
        if is_hugging_face(self.backbone) and not is_adapted(self.backbone):
            auto = "SequenceClassification" if self.reads_texts else "ImageClassification"
            return f"""
from transformers import AutoConfig, AutoModelFor{auto}

config = AutoConfig.for_model(**about["model"]["config"])
model = AutoModelFor{auto}.from_config(config).eval()
model.load_state_dict(load_file(path))
"""
        return "weights = load_file(path)\n"
