"""Two processes on images in tar files."""

import pytest
import torch

from tests.helpers.processes import finish_two
from tests.helpers.runs import load, rows
from tests.training.test_data_kinds import data, fit  # noqa: F401


def test_two_processes_train_on_shards_as_one(data, tmp_path):  # noqa: F811
    """On the same global batches: halves of 4 are the one process's 8."""
    exact = ("model.model_options.drop_path_rate=0", "trainer.precision=64-true")
    exact += ("tracker=null", "trainer.max_epochs=1")
    one = fit(tmp_path / "one", *data["tars"], *exact, "data.num_workers=0")
    two = tmp_path / "two"
    words = [f"--config={tmp_path}/one/experiment.yaml", f"run_dir={two}", *exact]
    words += ["data.num_workers=0", "data.batch_size=4"]
    words += ["trainer.devices=2", "trainer.strategy=ddp"]
    for ended in finish_two("train.py", *words):
        assert ended.returncode == 0, ended.stderr[-2000:]
    weights = [load(run_dir)["state_dict"] for run_dir in (one, two)]
    for name, expected in weights[0].items():
        assert torch.allclose(weights[1][name], expected, atol=1e-5), name
    for row, expected in zip(rows(two), rows(one), strict=True):
        for name in ("train/loss", "val/loss", "val/accuracy"):
            assert float(row[name]) == pytest.approx(float(expected[name]), abs=1e-5)
