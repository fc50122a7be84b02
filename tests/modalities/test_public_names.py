"""Names that earlier versions taught stay where they were."""

import importlib

import pytest

NAMES = {
    "lightning_modules": ["ViTClassifier", "BertClassifier", "CLASSIFIERS"],
    "lightning_modules.data": ["DATAMODULES", "DigitsDataModule", "ReviewsDataModule"],
    "lightning_modules.metrics": ["ClassSpecificity", "Segmentation", "perturb"],
    "lightning_modules.callbacks": ["RelevanceTracker", "FiniteSteps", "MetricsTable"],
    "lightning_modules.render": ["explanation_picture", "overlay", "unnormalize"],
    "lightning_modules.render_text": ["Paragraph", "caption", "probe_paragraphs", "text_picture"],
    "relprop": ["explain", "explain_trace", "explain_classes", "record", "register", "METHODS"],
}


@pytest.mark.parametrize("module", NAMES)
def test_what_was_imported_from_a_module_still_is(module):
    there = importlib.import_module(module)
    assert [name for name in NAMES[module] if not hasattr(there, name)] == []
