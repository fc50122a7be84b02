"""A folder that transformers loads: ``from_pretrained`` and ``pipeline``."""

from __future__ import annotations

from pathlib import Path

import transformers

from lightning_modules.export.base import EXPORTS, Export, is_hugging_face
from lightning_modules.export.timm_files import write_timm
from lightning_modules.models.classifier import Classifier
from lightning_modules.models.dape import is_adapted
from lightning_modules.models.hf_backbone import labels_of
from lightning_modules.models.published.labels import problem_type_of
from lightning_modules.utils.errors import InputError

PROCESSOR = "TimmWrapperImageProcessor"  # of transformers


@EXPORTS.register("hf")
class HuggingFace(Export):
    """For models of transformers; and for timm's, which transformers wraps.

    Pictures are prepared by timm's transforms in any case, as in evaluation: the processors of
    transformers crop and round otherwise. They are in ``config.json``.
    """

    name = "hf"
    library = "transformers"

    def __init__(self, classifier: Classifier) -> None:
        super().__init__(classifier)
        if not (is_hugging_face(self.backbone) or self.is_timm):
            raise self.refuse("a model of transformers or timm, or --to safetensors")
        if is_adapted(self.backbone):
            raise InputError(
                "--to hf: transformers alone has no model.attention=dape, and would load the model "
                "without it; accepted: --to safetensors"
            )

    def write(self, folder: Path) -> None:
        if self.is_timm:
            write_timm(self, folder)
            return
        config, transforms = self.backbone.config, self.transforms()
        config.update(labels_of(self.classifier.hparams.class_names))
        config.problem_type = problem_type_of(self.classifier.task.name)
        if transforms:
            config.update({"pretrained_cfg": transforms, "image_processor_type": PROCESSOR})
        self.save_tokenizer(folder)
        shown = transformers.logging.is_progress_bar_enabled()
        transformers.logging.disable_progress_bar()
        try:
            self.backbone.save_pretrained(folder)
        finally:
            if shown:
                transformers.logging.enable_progress_bar()

    def usage(self, place: str) -> str:
        given = '"picture.png"'
        if self.reads_texts:
            given = '"a text", truncation=True'
            if self.input_config.get("pairs"):
                given = '{"text": "a text", "text_pair": "another"}, truncation=True'
        return f"""\
from transformers import pipeline

classify = pipeline("{self.pipeline}", model="{place}")
print(classify({given}, top_k={len(self.classifier.hparams.class_names)}))
"""
