"""Relevance that speaks against a class is drawn so while training, too."""

import numpy as np
import pytest
import torch

from lightning_modules import BertClassifier, ViTClassifier
from lightning_modules.callbacks.watch import Watch
from lightning_modules.data import DigitsDataModule, ReviewsDataModule
from lightning_modules.modalities.drawing import HEADING, MARGIN, PANEL, SPACE, TITLE
from lightning_modules.modalities.images.draw import draw_over
from lightning_modules.modalities.texts.draw import sample_paragraphs
from lightning_modules.tasks import captions_of

SMALL = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
CONFIG = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 2}
CONFIG |= {"num_attention_heads": 2, "intermediate_size": 16}


def panel(picture: np.ndarray, column: int) -> np.ndarray:
    """One of a grid's first row."""
    left = MARGIN + column * (PANEL + SPACE)
    return picture[HEADING + TITLE :][:PANEL, left : left + PANEL]


@pytest.mark.parametrize("method", ["lrp", "rollout"])
def test_the_tracker_draws_the_colours_that_explain_py_draws(method):
    torch.manual_seed(0)
    data = DigitsDataModule(train_size=4, val_size=4, test_size=4, pairs_size=2)
    module = ViTClassifier(
        data.class_names, data.input_config, name="vit_tiny_patch16_224", model_options=SMALL
    )
    watch = Watch(module, data, {"method": method}, epoch=0)
    tracked = panel(watch.samples([0, 1]).pictures["samples"], 1)
    batch = watch.load(data.val_dataset, [0, 1])
    explained = module.explain(batch, batch["label"], method)
    picture = module.sources["image"].pictures(batch)[0].permute(1, 2, 0).numpy()
    relevance = torch.from_numpy(explained.arrays()[0])
    drawn = draw_over(picture, relevance, [0, 0, 32, 32], signed=method == "lrp")
    centres = ((np.arange(32) + 0.5) * PANEL / 32).astype(int)  # each pixel has become a square
    expected = (drawn * 255).round()
    assert np.abs(tracked[centres][:, centres] - expected).max() <= 1


def test_words_against_the_class_are_shown_as_such():
    torch.manual_seed(0)
    data = ReviewsDataModule(train_size=40, val_size=4, test_size=4, contrast_size=2)
    module = BertClassifier(data.class_names, data.input_config, config=CONFIG)
    watch = Watch(module, data, {"method": "lrp"}, epoch=0)
    report = watch.samples([0, 1, 2])
    batch = watch.load(data.val_dataset, [0, 1, 2])
    both = module.explain_classes(module.record(batch), batch, [batch["label"], None], "lrp")
    captions = captions_of(both, ["true: {}", "predicted: {}"], module.task, batch["label"])
    texts = sample_paragraphs(both, captions, signed=True)
    shares = [share for paragraphs in texts for p in paragraphs for _, share in p.words]
    assert min(shares) < -0.5
    strong = sum(abs(share) >= 0.25 and share < 0 for share in shares)
    assert report.texts["samples"].count("*−") == strong > 0
    unsigned = Watch(module, data, {"method": "rollout"}, epoch=0).samples([0, 1, 2])
    assert "−" not in unsigned.texts["samples"]
