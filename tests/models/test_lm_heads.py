"""Heads of masked language models, which decoded_saliency takes by folder."""

import pytest
import torch
import transformers

from lightning_modules.data import ReviewsDataModule
from lightning_modules.models.bert import BertClassifier
from lightning_modules.models.lm_heads import lm_head_of
from lightning_modules.utils.errors import InputError

SIZES = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 32}
FAMILIES = {  # the model, and its head by hand
    "Bert": lambda model, h: model.cls(h),
    "Roberta": lambda model, h: model.lm_head(h),
    "DistilBert": lambda model, h: model.vocab_projector(
        model.vocab_layer_norm(model.activation(model.vocab_transform(h)))
    ),
}


def masked(kind: str, vocabulary: int):
    torch.manual_seed(0)
    sizes = SIZES | {"num_hidden_layers": 2}
    if kind == "DistilBert":
        sizes = {"dim": 24, "n_heads": 2, "hidden_dim": 32, "n_layers": 2}
    config = getattr(transformers, f"{kind}Config")(vocab_size=vocabulary, **sizes)
    model = getattr(transformers, f"{kind}ForMaskedLM")(config)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def found_in(folder) -> object:
    return lm_head_of(str(folder), torch.float64, torch.device("cpu"))


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_head_is_what_the_model_does_after_its_blocks(kind, tmp_path):
    model = masked(kind, 40)
    model.save_pretrained(tmp_path)
    states = torch.randn(3, 5, 24, dtype=torch.float64)
    with torch.no_grad():
        expected = FAMILIES[kind](model.double(), states)
    torch.testing.assert_close(found_in(tmp_path)(states), expected, rtol=1e-9, atol=1e-12)


def test_a_classifier_of_texts_takes_a_folder(tmp_path):
    data = ReviewsDataModule(train_size=20, val_size=6, test_size=6, vocab_size=200)
    config = {"model_type": "bert", "num_hidden_layers": 3, "pad_token_id": 0, **SIZES}
    module = BertClassifier(data.class_names, data.input_config, config=config).double().eval()
    model = masked("Bert", module.backbone.config.vocab_size)
    model.save_pretrained(tmp_path)
    batch = data.collate([data.val_dataset[i] for i in range(6)])
    about = (batch, 1, "decoded_saliency")
    found, expected, other = (
        module.explain(*about, start_layer=1, **head).relevance
        for head in ({"lm_head": str(tmp_path)}, {"lm_head": model.double().cls}, {})
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert found.std() > 0 and not torch.allclose(found, other)


def test_what_has_no_head_is_refused(tmp_path):
    for folder in (tmp_path / "none", tmp_path / "body"):
        masked("Bert", 40).bert.save_pretrained(tmp_path / "body")
        with pytest.raises(InputError, match="lm_head=.*accepted: the hub id or folder of"):
            found_in(folder)
