"""The files of a model of timm's, which timm and transformers read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from timm.models import save_for_hf

from lightning_modules.export.base import Export
from lightning_modules.models.classifier import Classifier
from lightning_modules.models.published.labels import problem_type_of
from lightning_modules.models.weights_file import save_weights

# What timm knows of the weights that it offers, which these are not.
OF_OTHERS = ("tag", "license", "url", "hf_hub_id", "file", "origin_url", "paper_name", "paper_ids")
OF_OTHERS += ("notes", "label_names", "label_descriptions", "test_input_size", "test_crop_pct")


def write_timm(export: Export, folder: Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` as timm does.

    transformers reads the same folder as a TimmWrapper: it takes ``problem_type`` from the
    configuration, and the number of classes from ``num_classes`` alone.
    """
    classifier, model = export.classifier, export.backbone
    config = {k: v for k, v in model.pretrained_cfg.items() if k not in OF_OTHERS}
    model.pretrained_cfg = config | export.transforms()
    own = {
        "num_classes": len(classifier.hparams.class_names),
        "label_names": list(classifier.hparams.class_names),
        "problem_type": problem_type_of(classifier.task.name),
    }
    given = model_args(classifier)
    save_for_hf(model, str(folder), model_config=own, model_args=given, safe_serialization=True)
    path = folder / "config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    arguments = written.get("model_args", {})
    arguments.pop("num_classes", None)  # transformers would give it twice
    path.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    about = about_export(export, {"name": written["architecture"], "model_options": arguments})
    save_weights(model.state_dict(), folder / "model.safetensors", about)  # over timm's


def model_args(classifier: Classifier) -> dict[str, Any]:
    """The arguments of ``timm.create_model`` that the backbone was made with."""
    options = dict(classifier.hparams.get("model_options") or {})
    if not classifier.backbone.pretrained_cfg.get("fixed_input_size"):
        return options
    return {"img_size": list(classifier.hparams.input_config["input_size"][-2:])} | options


def about_export(export: Export, model: dict[str, Any]) -> dict[str, Any]:
    """What a file of weights says of itself; ``model``: what the backbone is made of."""
    classifier = export.classifier
    return {
        "kind": classifier.kind,
        "class_names": list(classifier.hparams.class_names),
        "task": classifier.task.name,
        "input_config": export.input_config,
        "model": model,
    }
