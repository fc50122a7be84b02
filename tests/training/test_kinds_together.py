"""A kind of model reads its kind of data, and others are refused in a line."""

import pytest

from lightning_modules import GraphClassifier, ViTClassifier
from lightning_modules.data import (
    ColouredEdgesDataModule,
    DigitEpisodesDataModule,
    DigitsDataModule,
)
from lightning_modules.models.classifier import CLASSIFIERS
from lightning_modules.models.fit_checks import check_kinds
from lightning_modules.utils.errors import InputError

SIZES = {"train_size": 2, "val_size": 2, "test_size": 2}
TEXTS = {"tokenizer": "{}", "special_tokens": {}, "max_length": 8}


@pytest.fixture(scope="module")
def configs():
    return {
        "digits": DigitsDataModule(**SIZES, pairs_size=2).input_config,
        "digit_episodes": DigitEpisodesDataModule().input_config,
        "coloured_edges": ColouredEdgesDataModule(**SIZES).input_config,
        "reviews": TEXTS,
    }


READ = {
    "digits": ["vit", "hf_image"],
    "digit_episodes": ["few_shot"],
    "coloured_edges": ["graph"],
    "reviews": ["bert"],
}


@pytest.mark.parametrize("data", READ)
@pytest.mark.parametrize("model", ["vit", "hf_image", "bert", "graph", "few_shot"])
def test_a_kind_of_model_reads_its_kind_of_data_alone(configs, data, model):
    """Others ended in a KeyError, or in words of timm's."""
    if model in READ[data]:
        check_kinds(configs[data], data, model, CLASSIFIERS)
        return
    accepted = " or ".join(x for x in CLASSIFIERS if x in READ[data])
    told = f"data.kind={data} with model.kind={model}; accepted with it: model.kind={accepted}$"
    with pytest.raises(InputError, match=told):
        check_kinds(configs[data], data, model, CLASSIFIERS)


def test_what_a_model_does_not_say_is_not_checked(configs):
    class Own(ViTClassifier):
        reads = ()

    kinds = {"own": Own, "graph": GraphClassifier}
    check_kinds(configs["coloured_edges"], "coloured_edges", "own", kinds)
    with pytest.raises(InputError, match="accepted with it: other data$"):
        check_kinds({}, "mine", "graph", kinds)
