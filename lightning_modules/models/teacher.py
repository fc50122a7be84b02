"""The trained classifier that a run goes on from: its weights to begin with, and its teacher."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_modules.models import class_names
from lightning_modules.models.checkpoints import load_classifier, read_checkpoint
from lightning_modules.models.fit_checks import check_inputs, check_kept, shape_of
from lightning_modules.tasks import precise
from lightning_modules.utils.checkpoint_files import find_checkpoint
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.files import replace_file
from lightning_modules.utils.fingerprint import fingerprint
from relprop.recording.eager import eagerly

if TYPE_CHECKING:
    from lightning_modules.models.classifier import Classifier

OPTION = "model.previous"
FILE = "teacher.ckpt"  # in the folder of the run that goes on from it


class Teacher:
    """A trained classifier as it was when a run went on from it.

    It is in evaluation and without gradients. It is no submodule of the run's classifier, so that
    it is neither in its checkpoints nor among its parameters.

    Attributes:
        module: the classifier.
        weights: a hash of its weights.
    """

    def __init__(self, module: Classifier) -> None:
        self.module = module.eval().requires_grad_(False)
        self.weights = fingerprint(module.backbone.state_dict())

    @classmethod
    def read(cls, path: str | Path) -> Teacher:
        """That of a run's folder, or of a checkpoint; errors as of :func:`load_classifier`."""
        return cls(load_classifier(find_checkpoint(path, OPTION)))

    @classmethod
    def of_run(cls, run_dir: Path, kept: Mapping[str, Any]) -> Teacher:
        """The copy in the folder of a run, of which a checkpoint has ``kept``.

        Raises:
            InputError: it is not there, or has other weights.
        """
        path = run_dir / FILE
        accepted = f"the copy of {OPTION} that the run began with, of the hash {kept['weights']}"
        if not path.is_file():
            raise InputError(f"{path}: no such file; accepted: {accepted}")
        teacher = cls(load_classifier(path))
        if teacher.weights != kept["weights"]:
            problem = f"its weights have the hash {teacher.weights}"
            raise InputError(f"{path}: {problem}; accepted: {accepted}")
        return teacher

    def write(self, run_dir: Path) -> None:
        """Copy it into the folder of a run, as a checkpoint that can be explained itself."""
        module = self.module
        checkpoint = {
            "kind": module.kind,
            "state_dict": module.state_dict(),
            "hyper_parameters": dict(module.hparams) | module.without_sources(),
        }
        run_dir.mkdir(parents=True, exist_ok=True)
        replace_file(run_dir / FILE, lambda file: torch.save(checkpoint, file))

    def kept(self) -> dict[str, Any]:
        """What the checkpoints of the run have of it."""
        return {"weights": self.weights, "class_names": self.class_names}

    @property
    def class_names(self) -> list[str]:
        """The classes that it knows, the first of the run."""
        return list(self.module.hparams.class_names)

    def on(self, module: Classifier) -> Teacher:
        """The same on the device of the run's classifier, and of its precision."""
        if self.module.device != module.device or self.module.dtype != module.dtype:
            self.module.to(module.device, module.dtype)
        return self

    @torch.no_grad()
    def logits(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Its logits [B, C'] of a batch."""
        with eagerly():  # no shape of a batch is compiled for it
            return precise(self.module(batch))


def start_from(module: Classifier, path: str) -> None:
    """Begin with the weights of a trained classifier whose classes are the first of the module's.

    It becomes the module's teacher. Of the head the rows of the earlier classes are the teacher's,
    and those of the new classes stay as they are.

    Args:
        module: a classifier with its backbone in place.
        path: folder of a run, or checkpoint.

    Raises:
        InputError: the other is of another kind, task or architecture, has other options that a run
            keeps, reads other inputs, or its classes are not the first of the module's.
        FileNotFoundError: there is no checkpoint.
    """
    given = f"{OPTION} {path}"
    check_options(module)
    teacher = Teacher.read(path)
    theirs = teacher.module
    for what, ours, of_previous in (
        ("kind", module.kind, theirs.kind),
        ("task", module.task.name, theirs.task.name),
    ):
        if ours != of_previous:
            raise InputError(
                f"{given}: the run is of {what} {of_previous}; accepted: one of {ours}"
            )
    names, earlier = module.hparams.class_names, teacher.class_names
    if names[: len(earlier)] != earlier or len(names) == len(earlier):
        raise InputError(
            f"{given}: the classes do not begin with those of the run: "
            f"{class_names.difference(names, earlier)}; accepted: those of the run, in their "
            "order, followed by new ones"
        )
    check_inputs(
        module.hparams.input_config, theirs.hparams.input_config, f"accepted: that of {given}"
    )
    check_kept(module, theirs.hparams, OPTION, f"as {path} has it")
    module.backbone.load_state_dict(widened(module, theirs, given))
    module.take_teacher(teacher)


def check_options(module: Classifier) -> None:
    """Raises an InputError where an option says otherwise where the weights are from."""
    options = module.hparams
    refused = {
        "model.weights": options.get("weights") is not None,
        "model.pretrained": bool(options.get("pretrained")),
        "model.lora.save=adapters": module.lora is not None and module.lora.save == "adapters",
    }
    for option, is_given in refused.items():
        if is_given:
            raise InputError(f"{OPTION} with {option}; accepted: one of the two, not both")
    if module.task.name != "multiclass":
        raise InputError(f"{OPTION}: the task is {module.task.name}; accepted: multiclass")


def widened(module: Classifier, theirs: Classifier, given: str) -> dict[str, Tensor]:
    """The state dict of an earlier backbone, its head filled up with the module's own rows."""
    ours, earlier = module.backbone.state_dict(), theirs.backbone.state_dict()
    head, few = module.head_parameters(), len(theirs.hparams.class_names)
    many = len(module.hparams.class_names)
    state = {}
    for name in ours | earlier:
        own, other = ours.get(name), earlier.get(name)
        of_classes = name in head and shape_of(own) != shape_of(other)
        if of_classes and own is not None and other is not None:
            fits = (len(own), len(other)) == (many, few) and own.shape[1:] == other.shape[1:]
            state[name] = torch.cat([other, own[few:]]) if fits else other
        else:
            fits = shape_of(own) == shape_of(other)
            state[name] = other
        if not fits:
            raise InputError(
                f"{given}: the run's model is another: {name} is {shape_of(other)} there, "
                f"{shape_of(own)} here; accepted: a run of the same model, or its model options"
            )
    return state


def first_weights(path: str, run_dir: Path) -> str:
    """Where a run that begins, or has to begin again, has its first weights from.

    A run that was stopped before its first checkpoint has them in its own folder.
    """
    return str(run_dir / FILE) if is_kept(run_dir) else path


def is_kept(run_dir: Path) -> bool:
    """True if a run has begun in the folder and has its teacher there."""
    return (run_dir / "config.yaml").is_file() and (run_dir / FILE).is_file()


def earlier_classes(path: str) -> list[str]:
    """The classes of a run, or of a checkpoint; errors as of :func:`read_checkpoint`."""
    state = read_checkpoint(find_checkpoint(path, OPTION))
    return list(state["hyper_parameters"]["class_names"])
