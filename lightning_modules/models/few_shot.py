"""Few-shot classifiers: the classes of an episode are told apart by a few pictures of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchmetrics import MetricCollection

import relprop
from lightning_modules.data.folders import hidden
from lightning_modules.data.images.class_folders import find_images
from lightning_modules.metrics import EpisodeAccuracy, EpisodeInterval
from lightning_modules.modalities.images.queries import ExplainedQueries, QueryImages
from lightning_modules.models.beside import BESIDE
from lightning_modules.models.classifier import CLASSIFIERS, Classifier
from lightning_modules.models.few_shot_heads import CrossHead, PrototypeHead
from lightning_modules.models.few_shot_net import Compared, FewShotNet
from lightning_modules.models.few_shot_support import Comparisons
from lightning_modules.models.vit_backbone import create_backbone, describe_backbone
from lightning_modules.tasks import make_task
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.fingerprint import fingerprint
from lightning_modules.utils.options import Count
from lightning_modules.utils.terminal import counted
from lightning_modules.utils.timm_names import TimmName
from relprop.recording.run import as_if_alone, evaluating

SUPPORT_FOLDER = (
    "--support FOLDER, with two folders or more, one a class, of pictures: FOLDER/<class>/*"
)
HEADS = {"cross": CrossHead, "prototype": PrototypeHead}


@CLASSIFIERS.register("few_shot")
class FewShotClassifier(Classifier):
    """Compares the patches of a plain ViT of timm's with those of each class's support.

    A checkpoint keeps no support: ``explain.py --support`` gives one, of any classes.

    Batches hold E episodes: ``support`` [E, C, K, 3, H, W], the queries ``image`` [E * Q, 3, H, W],
    those of one episode after those of another, and ``label`` [E * Q]; maybe ``shots`` [E, C], how
    many of the K pictures of each class there are.

    Args:
        class_names: of the places of an episode's classes, as many as its ways.
        input_config: in timm's words, and ``episode``: ``way``, ``shot`` and ``queries`` a class.
        name: a timm model; it loses its class token.
        pretrained: start from timm's weights for it, from the model hub.
        model_options: further arguments of ``timm.create_model`` (``depth``, ``drop_path_rate``).
        head: ``cross``, CrossTransformers, or ``prototype``, prototypical networks; see
            :mod:`.few_shot_heads`.
        key_width, value_width: of the head ``cross``; 128 and 128 are published.
        options: those of :class:`Classifier`.
    """

    reads = ("input_size", "episode")
    no_sources = {"pretrained": False}
    kept = {"head": "cross"}
    usual_targets = [("qkv", "proj")]
    decides_by_sources = False

    def __init__(
        self,
        class_names: list[str],
        input_config: dict[str, Any],
        name: TimmName = "vit_small_patch16_224",
        pretrained: bool = False,
        model_options: dict[str, Any] | None = None,
        *,
        head: Literal["cross", "prototype"] = "cross",
        key_width: Count = 128,
        value_width: Count = 128,
        **options,
    ) -> None:
        self.queries = of_episode(input_config, len(class_names))
        super().__init__(class_names, input_config, **options)
        # Of classes that are others in every episode nothing is counted.
        self.val_counts = self.test_counts = None
        size = tuple(input_config["input_size"][-2:])
        trunk = create_backbone(name, 0, pretrained, model_options or {}, size)
        sizes = (trunk.num_features, key_width, value_width) if head == "cross" else ()
        self.backbone = FewShotNet(trunk, HEADS[head](*sizes))
        self.choose_trained()
        self.support: dict[str, Tensor] = {}  # that explanations are given beside the inputs

    def figures(self) -> MetricCollection:
        found = {"episode_accuracy": EpisodeAccuracy, "episode_accuracy_ci95": EpisodeInterval}
        figures = self.task.metrics()
        figures.add_metrics({name: metric(self.queries) for name, metric in found.items()})
        return figures

    @cached_property
    def sources(self) -> dict[str, QueryImages]:
        config = {x: value for x, value in self.hparams.input_config.items() if x != "episode"}
        return {"image": QueryImages("image", config)}

    def inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = {name: batch[name].to(self.dtype) for name in ("image", "support")}
        return found | ({"shots": batch["shots"]} if "shots" in batch else {})

    def prepare(self, inputs: Sequence[Any]) -> dict[str, Any]:
        """Pictures, as the queries of one episode with the support that was given."""
        support = self.transfer_batch_to_device(self.support, self.device, 0)
        return super().prepare(inputs) | support

    def part_of(self, batch: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
        """Queries, each an episode of its own."""
        episode = torch.tensor(rows) // (len(batch["image"]) // len(batch["support"]))
        return {
            name: x[episode] if len(x) == len(batch["support"]) else x[list(rows)]
            for name, x in batch.items()
        }

    def levels(self) -> dict[str, int]:
        found = super().levels()
        top = max(found.values())
        return {name: top if name.startswith("head.") else x for name, x in found.items()}

    def parameter_groups(self) -> list[dict]:
        return self.groups_of(self.levels(), lambda name, x: x.ndim > 1 and "embed." not in name)

    def head_parameters(self) -> set[str]:
        names = (name for name, _ in self.backbone.named_parameters())
        return {name for name in names if name.startswith("head.")}

    def largest_batch(self) -> dict[str, Tensor]:
        height, width = self.hparams.input_config["input_size"][-2:]
        batch = super().prepare([Image.new("RGB", (width, height))])
        shape = (1, len(self.hparams.class_names), 1, 3, height, width)
        return batch | {"support": torch.zeros(shape, device=self.device)}

    def backbone_options(self) -> tuple[str, str]:
        height, width = self.hparams.input_config["input_size"][-2:]
        given = describe_backbone(self.hparams.name, False, self.hparams.model_options or {})
        return given, f"a plain ViT of pictures of 3 x {height} x {width}"

    def without_sources(self) -> dict[str, Any]:
        return dict(self.no_sources)

    # ------------------------------------------------------------------------- explanations

    def take_support(self, folder: str) -> None:
        """Tell the classes of a folder apart, by the pictures in the folder of each.

        Classes may have different numbers of pictures.

        Raises:
            InputError: there are not two classes, or one has no pictures, or no readable ones.
        """
        paths = class_folders(folder)
        pictures = [
            super(FewShotClassifier, self).prepare([self.sources["image"].read(x) for x in of])
            for of in paths.values()
        ]
        images = [of["image"] for of in pictures]
        self.support = {
            "support": pad_sequence(images, batch_first=True)[None],
            "shots": torch.tensor([[len(x) for x in images]]),
        }
        self.hparams.class_names = list(paths)
        self.task = make_task("multiclass", self.hparams.class_names, {})

    def check_complete(self) -> None:
        if not self.support:
            raise InputError(
                "--support: the model tells classes apart by pictures of each, and has none; "
                f"accepted: {SUPPORT_FOLDER}"
            )

    def record(self, batch: Mapping[str, Tensor], **options) -> relprop.Trace:
        """A recording of the queries; what they are compared with are constants."""
        inputs = self.inputs(batch)
        image, given = inputs.pop("image"), inputs
        each = len(image) // len(given["support"])
        with as_if_alone(image.device), torch.no_grad(), evaluating(self.backbone), self.merged():
            encoded = self.backbone.encode(**given)
        of_query = tuple(x.repeat_interleave(each, dim=0) for x in encoded)
        trace = relprop.record(Compared(self.backbone, of_query), image, **options)
        trace.comparisons = Comparisons(self.backbone, image, **given)
        return trace

    def explain_sources(
        self, trace: relprop.Trace, batch: Mapping[str, Any], *args, **options
    ) -> list[dict[str, ExplainedQueries]]:
        found = super().explain_sources(trace, batch, *args, **options)
        return [
            {name: replace(x, comparisons=trace.comparisons) for name, x in of.items()}
            for of in found
        ]


@BESIDE.register("support")
def take_support(module: Classifier, folder: str) -> str:
    """a folder of class folders, by whose pictures a few_shot model tells the classes apart"""
    if not isinstance(module, FewShotClassifier):
        raise InputError(
            f"--support {folder}: the model is of the kind {module.kind}, which takes none; "
            "accepted: a model of the kind few_shot"
        )
    module.take_support(folder)
    return fingerprint(module.support)


def class_folders(folder: str) -> dict[str, list[Path]]:
    """Paths of the pictures in each of a folder's folders, by its name.

    Raises:
        InputError: there are not two, or one has no pictures.
    """
    path, problem = Path(folder).expanduser(), "no such folder"
    if path.is_dir():
        inside = sorted(x for x in path.iterdir() if x.is_dir() and not hidden(x.name))
        found = {x.name: [Path(image) for image in find_images(x)[0]] for x in inside}
        empty = [name for name, images in found.items() if not images]
        if len(found) > 1 and not empty:
            return found
        problem = f"no pictures in {empty[0]}" if empty else counted(len(found), "class folder")
    raise InputError(f"--support {folder}: {problem}; accepted: {SUPPORT_FOLDER}")


def of_episode(input_config: Mapping[str, Any], ways: int) -> int:
    """Queries of an episode, of all classes.

    Raises:
        InputError: the data have no episodes.
    """
    episode = input_config.get("episode")
    if episode is None:
        raise InputError(
            "model.kind is few_shot, and the data are no episodes; accepted: data.kind="
            "digit_episodes or folder_episodes"
        )
    return ways * episode["queries"]
