"""Several processes: what they train, track and score is what one would."""

import json
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from PIL import Image

import explain
from tests.helpers.processes import finish, finish_two
from tests.helpers.runs import DIGITS, EPOCHS, ONE_EPOCH, curve, cut_off, rows, run

# Without what is random, and so precise that no rounding changes the order of two pixels.
EXACT = [
    "model.model_options.proj_drop_rate=0",
    "model.model_options.drop_path_rate=0",
    "trainer.precision=64-true",
]
TWO = ["trainer.devices=2", "trainer.strategy=ddp"]
# Of each process: the files it opens for writing, and how many samples it explains.
WATCHED = """
import os, sys
from pathlib import Path
import train
from lightning_modules import ViTClassifier

rank, log = os.environ.get("LOCAL_RANK", "0"), Path(sys.argv[1])

def opened(event, arguments):
    if event == "open" and str(log / "run") in str(arguments[0]):
        if set(str(arguments[1])) & set("wax+") or (arguments[2] or 0) & os.O_WRONLY:
            with open(log / f"wrote-{rank}", "a") as file:
                file.write(f"{arguments[0]}\\n")

def record(self, batch):
    with open(log / f"explained-{rank}", "a") as file:
        file.write(f"{len(batch['image'])}\\n")
    return plain(self, batch)

sys.addaudithook(opened)
plain, ViTClassifier.record = ViTClassifier.record, record
train.main(sys.argv[2:])
"""


def assert_ended(processes: list[CompletedProcess]) -> None:
    for process in processes:
        assert process.returncode == 0, process.stderr[-2000:]


PROTOCOLS = "tracker.protocols=[segmentation, sanity, specificity]"


def near(value: str | float, name: str = ""):
    """Average precision depends on how rounding ranks pixels that are interpolated to a tie."""
    tolerance = 1e-3 if "mAP" in name else 1e-5
    return pytest.approx(float("nan" if value == "" else value), abs=tolerance, nan_ok=True)


def test_two_processes_train_and_track_as_one(tmp_path):
    """On the same global batches: halves of 16 are the one process's 32."""
    one, two = run(tmp_path / "one", *EXACT, PROTOCOLS), tmp_path / "run"
    script = tmp_path / "script.py"
    script.write_text(WATCHED)
    arguments = [*DIGITS, *EXACT, *TWO, "data.batch_size=16", PROTOCOLS, f"run_dir={two}"]
    assert_ended(finish_two(script, str(tmp_path), *arguments))
    assert len(rows(two)) == EPOCHS
    for row, expected in zip(rows(two), rows(one), strict=True):
        assert row.keys() == expected.keys()
        for name, value in expected.items():
            assert float(row[name] or "nan") == near(value, name), name
    for tag in ("train/loss", "val/loss", "relevance/drift", "protocols/segmentation/mIoU"):
        assert curve(two, tag) == [(step, near(value)) for step, value in curve(one, tag)], tag
    found, expected = (json.loads((x / "metrics.json").read_text()) for x in (two, one))
    assert found == {name: near(value) for name, value in expected.items()}
    # The first process alone explains and writes.
    # At first one, to see whether it can be; every epoch 6 samples and 6 pairs; three protocols
    # once, of which sanity also explains four randomised models: head, a block, two blocks, all.
    recorded = (tmp_path / "explained-0").read_text().split()
    assert recorded[0] == "1" and recorded.count("6") == 2 * EPOCHS + 3 + 4
    assert (tmp_path / "wrote-0").is_file()
    assert (tmp_path / "explained-1").read_text().split() == ["1"]  # whether it can be, at first
    assert not (tmp_path / "wrote-1").exists()


FAILING = """
import os
import explain, train
from lightning_modules import ViTClassifier
from lightning_modules.callbacks import RelevanceTracker
from lightning_modules.protocols.localisation import Segmentation

def fail(self, *args, **kwargs):
    if os.environ.get("LOCAL_RANK", "0") == "{rank}":
        raise ZeroDivisionError("of rank {rank}")
    return plain(self, *args, **kwargs)

plain, {function} = {function}, fail
{program}.main({arguments})
"""


def test_no_process_waits_for_one_that_has_failed(tmp_path):
    """Where another waits for it, in the tracker; in a step: in tests/soak."""
    check_failure(tmp_path, 0, "RelevanceTracker._publish")


def check_failure(tmp_path: Path, rank: int, function: str) -> None:
    script = tmp_path / "script.py"
    arguments = [*DIGITS, *TWO, f"run_dir={tmp_path / 'run'}"]
    words = {"rank": rank, "function": function, "program": "train", "arguments": arguments}
    script.write_text(FAILING.format(**words))
    ended = finish(script)
    assert ended.returncode != 0
    assert f"ZeroDivisionError: of rank {rank}" in ended.stderr


def test_no_process_scores_on_without_one_that_has_failed(trained, tmp_path):
    """As torchrun's processes find; torchrun itself: in tests/soak."""
    waiting, failed = finish_two(failing_to_score(trained(*ONE_EPOCH), tmp_path))
    assert waiting.returncode != 0
    assert "ZeroDivisionError: of rank 1" in failed.stderr
    assert not (tmp_path / "scores" / "scores.json").exists()


def failing_to_score(run_dir: Path, tmp_path: Path) -> Path:
    """A script that scores a run, and fails in the second of two processes."""
    arguments = ["evaluate", "--checkpoint", str(run_dir), "--protocol", "segmentation"]
    arguments += ["--output", str(tmp_path / "scores")]
    script = tmp_path / "script.py"
    words = {"rank": 1, "function": "Segmentation.update", "program": "explain"}
    script.write_text(FAILING.format(arguments=arguments, **words))
    return script


@pytest.mark.parametrize(
    ("experiment", "protocol", "begun"),
    [("digits", "perturbation", False), ("reviews", "rationales", True)],
)
def test_two_processes_score_as_one(trained, tmp_path, monkeypatch, experiment, protocol, begun):
    """Also where two go on with what one has begun; the other way round: in tests/soak."""
    run_dir = trained(*ONE_EPOCH, experiment=experiment)
    check_scores(run_dir, tmp_path, monkeypatch, protocol, begun)


def check_scores(run_dir: Path, tmp_path: Path, monkeypatch, protocol: str, begun: bool) -> None:
    arguments = ["evaluate", "--checkpoint", str(run_dir), "--protocol", protocol]
    arguments += ["--method", "transformer_attribution", "random"]
    arguments += ["data.batch_size=4", "--limit", "10", "--output"]
    one, two = (str(tmp_path / name) for name in ("one", "two"))

    explain.main([*arguments, one])
    if begun:
        with cut_off(monkeypatch, done=4):
            explain.main([*arguments, two])
    assert_ended(finish_two("explain.py", *arguments, two, *(["--resume"] if begun else [])))

    for name in ("scores.json", "scores.csv"):
        assert Path(two, name).read_text() == Path(one, name).read_text()


def test_two_processes_explain_as_one(trained, tmp_path):
    """Every file, byte for byte, what is printed, and what is told of inputs and methods."""
    inputs = tmp_path / "pictures"
    inputs.mkdir()
    random = np.random.default_rng(0)
    for number in range(28):
        picture = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(picture).save(inputs / f"{number:02d}.png")
    for number in range(9):  # more than a batch
        (inputs / f"00-broken-{number}.png").write_text("no picture")
    arguments = ["--checkpoint", str(trained(*ONE_EPOCH)), "--input", str(inputs)]
    arguments += ["--import", "tests.helpers.own.refusing", "--method", "rollout", "refusing"]
    arguments += ["--format", "all", "--output"]
    one = finish("explain.py", *arguments, str(tmp_path / "one"))
    first, second = finish_two("explain.py", *arguments, str(tmp_path / "two"))
    assert (one.returncode, first.returncode, second.returncode) == (1, 1, 0), second.stderr
    assert first.stdout.replace("two/", "one/") == one.stdout
    assert first.stderr.count("left out: ") == 1 and first.stderr.count("broken") > 9
    assert second.stdout == ""
    written = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert len(written) == 28 + 3
    assert {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()} == written
