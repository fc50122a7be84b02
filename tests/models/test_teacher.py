"""A classifier that goes on from another: its first weights, its teacher, and what is refused."""

import pytest
import torch

from lightning_modules import BertClassifier, ViTClassifier
from lightning_modules.metrics import ClassIncremental
from lightning_modules.models.checkpoints import load_classifier
from lightning_modules.models.teacher import FILE, Teacher
from lightning_modules.utils.errors import InputError
from tests.helpers.guided import BERT, VIT, of_reviews
from tests.helpers.samples import message_of

INPUT = {
    "input_size": [3, 32, 32],
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "interpolation": "bicubic",
    "crop_pct": 1.0,
}
OLD, NEW = ["a", "b", "c"], ["a", "b", "c", "d", "e"]


def vit(names, **options) -> ViTClassifier:
    given = {"input_config": INPUT, "name": "vit_tiny_patch16_224", "model_options": VIT}
    return ViTClassifier(names, **given | options)


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A checkpoint of a ViT of three classes, and its weights."""
    torch.manual_seed(1)
    module, folder = vit(OLD), tmp_path_factory.mktemp("old")
    for parameter in module.parameters():
        parameter.data += torch.randn_like(parameter)
    Teacher(module).write(folder)
    return folder / FILE, module.backbone.state_dict()


def test_a_head_is_widened_and_keeps_its_rows(old):
    path, theirs = old
    torch.manual_seed(2)
    fresh = vit(NEW).backbone.state_dict()
    torch.manual_seed(2)
    module = vit(NEW, previous=str(path))
    ours = module.backbone.state_dict()
    for name in ours:
        if name in ("head.weight", "head.bias"):
            assert torch.equal(ours[name][:3], theirs[name])
            assert torch.equal(ours[name][3:], fresh[name][3:])
        else:
            assert torch.equal(ours[name], theirs[name]), name
    assert len(fresh["head.weight"]) == 5 and fresh["head.weight"][3:].any()
    images = {"image": torch.rand(2, 3, 32, 32)}
    module.eval()
    torch.testing.assert_close(module(images)[:, :3], module.teacher.logits(images))


def test_a_teacher_is_no_part_of_the_module(old):
    path, _ = old
    module = vit(NEW, previous=str(path))
    assert module.state_dict().keys() == vit(NEW).state_dict().keys()
    assert len(list(module.parameters())) == len(list(vit(NEW).parameters()))
    module.train()
    assert not module.teacher.module.training
    assert not any(x.requires_grad for x in module.teacher.module.parameters())
    checkpoint = {"hyper_parameters": dict(module.hparams)}
    module.on_save_checkpoint(checkpoint)
    assert checkpoint["teacher"] == {"weights": module.teacher.weights, "class_names": OLD}
    assert checkpoint["hyper_parameters"]["previous"] is None


def test_a_copy_of_a_teacher_is_a_checkpoint_and_a_run_takes_no_other(old, tmp_path):
    path, weights = old
    teacher = Teacher.read(path)
    teacher.write(tmp_path)
    again = load_classifier(tmp_path / FILE)
    for name, value in again.backbone.state_dict().items():
        assert torch.equal(value, weights[name]), name
    assert Teacher.of_run(tmp_path, teacher.kept()).weights == teacher.weights
    again.backbone.head.bias.data[0] += 1e-6
    Teacher(again).write(tmp_path)
    with pytest.raises(InputError) as raised:
        Teacher.of_run(tmp_path, teacher.kept())
    message_of(raised, str(tmp_path / FILE), "hash", teacher.weights)
    (tmp_path / FILE).unlink()
    with pytest.raises(InputError) as raised:
        Teacher.of_run(tmp_path, teacher.kept())
    message_of(raised, "no such file", teacher.weights)


def test_a_bert_goes_on(tmp_path):
    theirs, batch = of_reviews()
    Teacher(theirs.float()).write(tmp_path)
    names, config = [*theirs.hparams.class_names, "mixed"], theirs.hparams.input_config
    module = BertClassifier(names, config, config=BERT, previous=str(tmp_path / FILE)).eval()
    before = module.teacher.logits(batch)
    assert before.shape == (6, 2)
    torch.testing.assert_close(module(batch)[:, :2].detach(), before)
    other = config | {"max_length": 32}
    with pytest.raises(InputError) as raised:
        BertClassifier(names, other, config=BERT, previous=str(tmp_path / FILE))
    message_of(raised, "max_length is 32", "accepted: that of model.previous", "48")


@pytest.mark.parametrize(
    ("names", "options", "reason"),
    [
        (NEW, {"model_options": VIT | {"depth": 3}}, "the run's model is another: blocks.2."),
        (NEW, {"model_options": VIT | {"embed_dim": 8}}, "the run's model is another"),
        (OLD, {}, "the classes do not begin with those of the run"),
        (["b", "a", "c", "d"], {}, "the classes do not begin with those of the run"),
        (["a", "b", "d", "c"], {}, "the classes do not begin with those of the run"),
        (NEW, {"task": "multilabel"}, "the task is multilabel; accepted: multiclass"),
        (NEW, {"weights": "PREVIOUS"}, "with model.weights; accepted: one of the two, not both"),
        (
            NEW,
            {"input_config": INPUT | {"mean": [0.4] * 3}},
            "the data's mean is [0.4, 0.4, 0.4]; accepted: that of model.previous",
        ),
    ],
)
def test_what_a_run_does_not_go_on_from(old, names, options, reason):
    path, _ = old
    if "weights" in options:
        options = {"weights": str(path)}
    with pytest.raises(InputError) as raised:
        vit(names, previous=str(path), **options)
    message_of(raised, reason)


def test_a_run_of_another_kind_is_refused(old):
    theirs, _ = of_reviews()
    config = theirs.hparams.input_config
    with pytest.raises(InputError) as raised:
        BertClassifier(NEW, config, config=BERT, previous=str(old[0]))
    message_of(raised, "the run is of kind vit; accepted: one of bert")


def test_what_is_forgotten_is_counted():
    generator = torch.Generator().manual_seed(0)
    metric, rows = ClassIncremental(old=3), []
    for _ in range(3):
        labels, predicted = (torch.randint(5, (20,), generator=generator) for _ in range(2))
        before = torch.randint(3, (20,), generator=generator)
        metric.update(predicted, before, labels)
        rows += zip(predicted.tolist(), before.tolist(), labels.tolist(), strict=True)
    old = [(p, b, y) for p, b, y in rows if y < 3]
    new = [(p, b, y) for p, b, y in rows if y >= 3]
    accuracy_old = sum(p == y for p, _, y in old) / len(old)
    expected = {
        "accuracy_old": accuracy_old,
        "accuracy_new": sum(p == y for p, _, y in new) / len(new),
        "forgetting": sum(b == y for _, b, y in old) / len(old) - accuracy_old,
    }
    found = {name: float(value) for name, value in metric.compute().items()}
    assert found == pytest.approx(expected)
    assert 0 < accuracy_old < 1
    metric.reset()
    metric.update(torch.tensor([4]), torch.tensor([0]), torch.tensor([4]))
    assert metric.compute() == {"accuracy_new": 1}
