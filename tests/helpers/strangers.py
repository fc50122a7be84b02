"""A stranger's Lightning project: modules, data and loaders that import nothing of ours."""

import random

import lightning
import numpy as np
import timm
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import BertConfig, BertForSequenceClassification

SIDE, WORDS, LENGTH = 32, 40, 12  # pixels; of the vocabulary; of the longest text
COLORS = torch.eye(3)
PAD, CLS, SEP = 0, 1, 2
GOOD, BAD = 10, 11  # the words that decide


def timm_vit(**options):
    sizes = {"img_size": SIDE, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    options = {"num_classes": 3, "proj_drop_rate": 0.1, "drop_path_rate": 0.1} | options
    return timm.create_model("vit_tiny_patch16_224", **sizes | options)


def bert(**options):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32, "vocab_size": WORDS, "max_position_embeddings": LENGTH}
    return BertForSequenceClassification(BertConfig(**sizes | options))


class Plain(lightning.LightningModule):
    """What their modules share: a loss, a metric, an optimizer."""

    def configure_optimizers(self):
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=3e-3)

    def logits_and_labels(self, batch):
        raise NotImplementedError

    def training_step(self, batch, batch_idx):
        logits, labels = self.logits_and_labels(batch)
        loss = torch.nn.functional.cross_entropy(logits, labels)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        logits, labels = self.logits_and_labels(batch)
        self.log("val/accuracy", (logits.argmax(dim=1) == labels).float().mean())


class Pictures(Plain):
    """A timm ViT as ``self.model``; batches are (x, y)."""

    def __init__(self, model=None):
        super().__init__()
        self.model = timm_vit() if model is None else model

    def logits_and_labels(self, batch):
        x, y = batch
        return self.model(x), y


class TwoModels(Pictures):
    def __init__(self):
        super().__init__()
        self.teacher = torch.nn.ModuleDict({"of_it": timm_vit(depth=1)})


class Reviews(Plain):
    """A Hugging Face BERT; batches are dicts."""

    def __init__(self, model=None):
        super().__init__()
        self.bert = bert() if model is None else model

    def logits_and_labels(self, batch):
        batch = dict(batch)
        labels = batch.pop("labels")
        return self.bert(**batch).logits, labels


class Squares(Dataset):
    """A square in red, green or blue, somewhere on grey noise that is new whenever it is asked."""

    def __init__(self, size=12):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        x = 0.3 + 0.1 * torch.randn(3, SIDE, SIDE) + 0.1 * random.random()
        row, column = np.random.randint(0, SIDE - 8, 2)
        x[:, row : row + 8, column : column + 8] = COLORS[index % 3, :, None, None]
        return (x - 0.5) / 0.5, index % 3


class Texts(Dataset):
    """Random words, of which one decides."""

    def __init__(self, size=12):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        words = torch.randint(12, WORDS, (random.randint(3, LENGTH - 2),)).tolist()
        words[np.random.randint(len(words))] = (BAD, GOOD)[index % 2]
        return {"ids": [CLS, *words, SEP], "label": index % 2}


def padded(items):
    longest = max(len(item["ids"]) for item in items)
    ids = [item["ids"] + [PAD] * (longest - len(item["ids"])) for item in items]
    ids = torch.tensor(ids)
    labels = torch.tensor([item["label"] for item in items])
    return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": labels}


PROJECTS = {"pictures": (Pictures, Squares, None), "texts": (Reviews, Texts, padded)}


def loader(project, size=12, **options):
    _, data, collate = PROJECTS[project]
    return DataLoader(data(size), batch_size=4, collate_fn=collate, **options)


class Data(lightning.LightningDataModule):
    def __init__(self, project, size=12):
        super().__init__()
        self.project, self.size = project, size

    def train_dataloader(self):
        return loader(self.project, self.size, shuffle=True)

    def val_dataloader(self):
        return loader(self.project, self.size)


def trainer(folder, *callbacks, **options):
    options = {"max_epochs": 2, "logger": False, "enable_checkpointing": False} | options
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return lightning.Trainer(default_root_dir=folder, callbacks=list(callbacks), **quiet | options)


def fit(folder, module, *callbacks, data=None, ckpt_path=None, **options):
    """The trainer, when it has trained a module on its project's data."""
    project = "texts" if isinstance(module, Reviews) else "pictures"
    made = trainer(folder, *callbacks, **options)
    made.fit(module, datamodule=data or Data(project), ckpt_path=ckpt_path)
    return made


def made(project="pictures", **options):
    lightning.seed_everything(0, verbose=False)
    return PROJECTS[project][0](**options)


def watched_batch(project="pictures", size=6):
    torch.manual_seed(3)
    return next(iter(loader(project, size)))
