"""Classifiers that are ready for a guided step, and the loss on maps written by hand."""

from types import SimpleNamespace

import torch
from torch.utils.data import default_collate

import relprop
from lightning_modules import BertClassifier, ViTClassifier
from lightning_modules.data import DigitsDataModule, ReviewsDataModule
from lightning_modules.guidance import Guidance

SIZE = 6
VIT = {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "proj_drop_rate": 0.2}
BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT |= {"intermediate_size": 16, "max_position_embeddings": 64}


def batch_of(data) -> dict:
    """The first training samples."""
    make = data.collate or default_collate
    return make([data.train_dataset[0, index] for index in range(SIZE)])


def ready(module):
    """In float64, with parameters that all count, in the middle of a training."""
    for parameter in module.backbone.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    module.progress, module.logged = lambda: 0.5, {}
    module.log = lambda name, value, **_: module.logged.update({name: float(value)})
    module.log_dict = module.log_training = lambda *_, **__: None
    module.trainer = SimpleNamespace(precision="64-true", strategy=None, global_step=4)
    return module.double().train()


def of_digits(task: str = "multiclass", **options):
    torch.manual_seed(0)
    data = DigitsDataModule(task=task, train_size=SIZE, val_size=1, test_size=1, pairs_size=1)
    options = {"name": "vit_tiny_patch16_224", "model_options": VIT, "task": task} | options
    return ready(ViTClassifier(data.class_names, data.input_config, **options)), batch_of(data)


def of_reviews():
    torch.manual_seed(0)
    sizes = {"train_size": 100, "val_size": 1, "test_size": 1, "contrast_size": 1}
    data = ReviewsDataModule(vocab_size=300, max_length=48, **sizes)
    return ready(BertClassifier(data.class_names, data.input_config, config=BERT)), batch_of(data)


def losses(module, batch, **options):
    """Of the known samples, without a graph."""
    logits = torch.zeros(len(batch["label"]), 10, dtype=torch.float64)
    return Guidance(**options).of_samples(module, batch, logits)[0].detach()


def same(found, expected) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def patches(mask) -> torch.Tensor:
    """The share of each patch of 4 x 4 pixels that is marked, [64]."""
    return torch.stack([x.double().mean() for row in mask.split(4) for x in row.split(4, dim=1)])


def energy(S, m) -> torch.Tensor:
    """Minus the logarithm of the share of relevance on the object."""
    return -torch.log(((S * m).sum() + 1e-8) / (S.sum() + 1e-8))


def of_pictures(module, batch, targets, differentiable="attention"):
    """The loss of each sample and class in ``targets``, pairs (sample, class)."""
    images, found = batch["image"].double(), []
    for sample, target in targets:
        trace = relprop.record(module.backbone, images[[sample]], differentiable=differentiable)
        S = relprop.explain_trace(trace, target, "generic_attention").relevance[0]
        mask = batch["mask"][sample]
        found.append(energy(S, patches(mask[target] if mask.ndim == 3 else mask)))
    return torch.stack(found)


def there(batch) -> list[tuple[int, int]]:
    """Each sample and label that it has."""
    return [(i, j) for i, labels in enumerate(batch["label"]) for j in range(10) if labels[j]]
