"""The option freeze: patterns of the names of parameters."""

import pytest
import torch

from lightning_modules.models.blocks import levels_of
from lightning_modules.models.classifier import Classifier
from lightning_modules.utils.errors import InputError
from tests.models.test_classifier import CLASSES, INPUT, classifier, fit, rates


def frozen(module) -> set[str]:
    return {name for name, p in module.named_parameters() if not p.requires_grad}


def test_what_a_pattern_matches_is_frozen_and_the_rest_keeps_its_rates():
    module = classifier(freeze=["backbone.blocks.[01].*", "*.norm2.bias"], layer_decay=0.5, lr=1.0)
    expected = {
        name
        for name, _ in module.named_parameters()
        if name.startswith(("backbone.blocks.0.", "backbone.blocks.1.")) or ".norm2.bias" in name
    }
    assert frozen(module) == expected
    all_rates = rates(classifier(layer_decay=0.5, lr=1.0))
    left = {name: x for name, x in all_rates.items() if f"backbone.{name}" not in expected}
    assert rates(module) == left


def test_what_is_frozen_is_not_changed_by_training():
    module = classifier(freeze=["backbone.blocks.*", "backbone.pos_embed"], weight_decay=0.5)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    fit(module)
    changed = {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert not any(x.startswith("backbone.blocks.") or x == "backbone.pos_embed" for x in changed)


def test_a_pattern_that_matches_nothing_is_told_with_the_nearest():
    with pytest.raises(InputError) as error:
        classifier(freeze=["backbone.blocks.*", "backbone.block.2.*"])
    message = str(error.value)
    assert message.startswith("model.freeze has 'backbone.block.2.*', which no parameter's name ")
    assert "accepted: patterns that match some, such as backbone.blocks.2.*" in message


def test_case_is_told_apart():
    with pytest.raises(InputError, match="such as backbone.blocks"):
        classifier(freeze=["backbone.Blocks.*"])


def test_patterns_that_leave_nothing_are_refused():
    with pytest.raises(InputError, match="no parameter is left to train; accepted: patterns that"):
        classifier(freeze=["*"])


def test_patterns_go_with_freeze_backbone():
    module = classifier(freeze_backbone=True, freeze=["backbone.head.bias"])
    assert {n for n, p in module.named_parameters() if p.requires_grad} == {"backbone.head.weight"}


class Forgetful(Classifier):
    """A classifier of a user's that does nothing about the options."""

    def __init__(self, class_names, input_config, **options) -> None:
        super().__init__(class_names, input_config, **options)
        self.backbone = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))

    def largest_batch(self):
        return {"image": torch.zeros(1, 3, 2, 2)}

    def inputs(self, batch):
        return batch["image"]

    def backbone_options(self):
        return "model", "pictures"


def test_a_classifier_that_does_not_take_the_options_says_so():
    Forgetful(CLASSES, INPUT).check_inputs()
    for option in ({"freeze": ["*"]}, {"lora": {}}):
        with pytest.raises(InputError, match="not taken by Forgetful.*; accepted: null"):
            Forgetful(CLASSES, INPUT, **option).check_inputs()


def test_levels_rise_from_the_embeddings_to_the_head():
    levels = levels_of(classifier().backbone)
    assert levels["pos_embed"] == levels["patch_embed.proj.weight"] == 0
    assert [levels[f"blocks.{i}.norm1.bias"] for i in range(3)] == [1, 2, 3]
    assert levels["norm.weight"] == levels["head.bias"] == 4
