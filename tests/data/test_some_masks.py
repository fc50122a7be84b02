"""Where some images have a mask, the others do not count: in the tracker and in the protocol."""

import json

import numpy as np
import pytest
import torch

import explain
import train
from lightning_modules import ViTClassifier
from lightning_modules.callbacks.watch import Watch
from lightning_modules.data import ImageFolderDataModule
from lightning_modules.metrics import Segmentation
from lightning_modules.protocols import PROTOCOLS, Shard, evaluate, values_of
from lightning_modules.utils.errors import InputError
from tests.helpers.processes import finish_two
from tests.helpers.runs import TRAINER, rows
from tests.helpers.samples import save

MASKED = [1, 2, 6]  # of 8 samples; the mask of the first of them is empty
SCORES = ("pixel_accuracy", "mIoU", "mAP")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two classes, four images each, in train and val; masks of three of val."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split in ("train", "val"):
        for index in range(8):
            name = f"{'cat' if index < 4 else 'dog'}/{index}.png"
            save(root / split / name, rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
            if split == "val" and index in MASKED:
                mask = np.zeros((32, 32), np.uint8)
                mask[: 4 * index, 8:20] = index > MASKED[0]
                save(root / "masks" / split / name, mask)
    return root


def made(root, batch_size=3) -> tuple[ViTClassifier, ImageFolderDataModule]:
    """A classifier and its data."""
    data = ImageFolderDataModule(str(root), batch_size=batch_size, num_workers=0, image_size=32)
    torch.manual_seed(0)
    module = ViTClassifier(
        class_names=data.class_names,
        input_config=data.input_config,
        name="vit_tiny_patch16_224",
        model_options={"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2},
    )
    return module.eval(), data


def near(scores, expected) -> None:
    """Average precision depends on how rounding ranks pixels that are interpolated to a tie."""
    for name in SCORES:
        tolerance = 1e-3 if name == "mAP" else 1e-5
        assert float(scores[name]) == pytest.approx(float(expected[name]), abs=tolerance), name


def by_hand(root, indices) -> dict[str, float]:
    """The scores of a method's maps of these samples, for the predicted classes, one by one."""
    module, data = made(root)
    metric = Segmentation()
    for index in indices:
        sample = data.val_dataset[index]
        heatmap = module.explain({"image": sample["image"][None]}).heatmap(32)
        metric.update(heatmap, sample["mask"][None])
    return {name: value.item() for name, value in metric.compute().items()}


def found(root, shard=Shard(), **options) -> tuple[int, dict[str, float]]:  # noqa: B008 - frozen
    """How many samples the protocol counts, and their scores."""
    module, data = made(root, **options)
    protocol = PROTOCOLS["segmentation"](module, data)
    *_, progress = evaluate(protocol, ["transformer_attribution"], {}, shard=shard)
    values = values_of(progress.metrics["transformer_attribution"])
    return progress.total, {name: value for (name, _), value in values.items()}


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_the_protocol_scores_the_samples_with_a_mask(root, batch_size):
    total, scores = found(root, batch_size=batch_size)
    assert total == len(MASKED)
    near(scores, by_hand(root, MASKED))
    assert scores != pytest.approx(by_hand(root, range(8)), abs=1e-2)  # with masks that are none


ONE_OF_TWO = """
import json, sys
import torch.distributed as dist
from lightning_modules.protocols import Shard
from tests.data.test_some_masks import found

dist.init_process_group("gloo")
print(json.dumps(found(sys.argv[1], Shard(dist.get_rank(), 2), batch_size=1)))
dist.destroy_process_group()
"""


def test_two_processes_score_the_same_samples(root, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(ONE_OF_TWO)
    ended = finish_two(script, str(root))
    assert [process.returncode for process in ended] == [0, 0], ended
    first, second = (json.loads(process.stdout.splitlines()[-1]) for process in ended)
    assert first == second == list(found(root, batch_size=1))


def report(root, samples):
    module, data = made(root)
    options = {"method": "transformer_attribution", "start_layer": 0}
    return Watch(module, data, options, epoch=0).samples(samples)


def test_the_tracker_scores_the_samples_with_a_mask(root):
    """Here of the true class, which the untrained model may not predict."""
    samples = [7, 6, 0, 1]
    scalars = report(root, samples).scalars
    module, data = made(root)
    metric = Segmentation()
    for index in (6, 1):
        sample = data.val_dataset[index]
        explained = module.explain({"image": sample["image"][None]}, sample["label"])
        metric.update(explained.heatmap(32), sample["mask"][None])
    near(scalars, metric.compute())


def test_the_tracker_has_no_score_of_samples_without_a_mask(root):
    told = report(root, [0, 3, 7])
    assert set(told.scalars) == {"concentration"} and told.maps.shape == (3, 16)


def options_of(root, *more: str) -> list[str]:
    return [
        *TRAINER,
        *("--config=configs/deit_image_folder.yaml", f"data.root={root}", "data.num_workers=0"),
        *("data.image_size=32", "data.batch_size=3", "model.pretrained=false"),
        *("model.mixup=0", "model.cutmix=0", "trainer.precision=32-true"),
        "model.model_options={patch_size: 8, embed_dim: 24, depth: 2, num_heads: 2}",
        *("trainer.max_epochs=1", "tracker.protocols=[segmentation]", *more),
    ]


def test_a_run_on_images_with_some_masks(root, tmp_path, capsys):
    """Every sample is watched; the protocol's scores are those that explain.py finds."""
    train.main([*options_of(root), f"run_dir={tmp_path / 'run'}"])
    (row,) = rows(tmp_path / "run")
    assert all(0 < float(row[f"relevance/{name}"]) <= 1 for name in SCORES)
    capsys.readouterr()
    scores = ["evaluate", "--checkpoint", str(tmp_path / "run"), "--protocol", "segmentation"]
    explain.main([*scores, "--method", "transformer_attribution"])
    assert f"image_folder, {len(MASKED)} samples" in capsys.readouterr().out
    text = (tmp_path / "run" / "scores" / "segmentation" / "scores.json").read_text()
    assert '"samples": 3' in text


def test_a_protocol_is_told_before_training_if_no_watched_sample_has_a_mask(root, tmp_path, capsys):
    seed = next(
        seed
        for seed in range(100)
        if int(torch.randperm(8, generator=torch.Generator().manual_seed(seed))[0]) not in MASKED
    )
    options = ["tracker.samples=1", f"tracker.seed={seed}", f"run_dir={tmp_path / 'run'}"]
    with pytest.raises(SystemExit) as exit_:
        train.main([*options_of(root), *options])
    assert exit_.value.code == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert "tracker.protocols: segmentation: " in told and "no masks; accepted" in told


def test_a_split_without_masks_beside_one_that_has_them_is_told(root, tmp_path):
    module, data = made(root)
    data.test_dataset = type(data.val_dataset)(data.val_dataset.samples, data.val_dataset.transform)
    with pytest.raises(InputError, match="the test samples have no masks; accepted"):
        PROTOCOLS["segmentation"](module, data).samples()
