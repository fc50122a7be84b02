"""Models whose relevance is no number: told by its operation, and never scored or drawn."""

import shutil
import warnings

import pytest
import torch
from PIL import Image
from torch import nn

import explain
import relprop
from tests.helpers.runs import ONE_EPOCH

PROTOCOLS = {"digits": "perturbation", "reviews": "rationales"}


@pytest.fixture(scope="module", params=PROTOCOLS)
def broken(request, trained, tmp_path_factory):
    """A run whose checkpoint has a weight that is no number, and what to explain by it."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    path = shutil.copytree(trained(*ONE_EPOCH, experiment=request.param), folder)
    file = path / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    name = next(name for name in checkpoint["state_dict"] if name.endswith("norm.weight")
                or name.endswith("LayerNorm.weight"))  # fmt: skip
    checkpoint["state_dict"][name][0] = torch.nan
    torch.save(checkpoint, file)
    return request.param, path


def test_an_input_is_named_and_nothing_is_drawn(broken, tmp_path, capsys):
    kind, path = broken
    given = ["--text", "It was good.", "Not bad."]
    if kind == "digits":
        pictures = [tmp_path / f"{i}.png" for i in range(2)]
        for picture in pictures:
            Image.new("RGB", (40, 40)).save(picture)
        given = ["--input", *map(str, pictures)]
    output = ["--output", str(tmp_path / "out"), "--format", "png,html,npz,json"]
    with pytest.raises(SystemExit) as stop:
        explain.main(["--checkpoint", str(path), *given, *output])
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if line.startswith("explain.py: ")]
    assert stop.value.code == 2 and "0 of 2 explained\n" in printed.out and len(lines) == 2
    assert all("its relevance is not finite, first in the forward pass" in line for line in lines)
    assert not (tmp_path / "out").exists()


def test_a_method_is_not_scored_by_it(broken, tmp_path, capsys):
    kind, path = broken
    chosen = ["--protocol", PROTOCOLS[kind], "--method", "lrp", "gradcam", "random"]
    output = ["--limit", "6", "--output", str(tmp_path)]
    with pytest.raises(SystemExit) as stop:
        explain.main(["evaluate", "--checkpoint", str(path), *chosen, *output])
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2 and "--method lrp: does not apply, as no other here does" in line
    assert "its relevance is not finite, first in the forward pass: the logits are not" in line
    assert not list(tmp_path.iterdir())


def test_relevance_that_explodes_is_told_and_another_method_is_named():
    """Of two numbers that nearly cancel, by the logit that is left."""
    model = nn.Linear(2, 2, bias=False).double()
    model.weight.data = torch.tensor([[1.0, 1.0], [1e-9, 0.0]]).double()
    x = torch.tensor([[1.0, -1 + 1e-9]], dtype=torch.float64)
    with pytest.warns(UserWarning, match='explodes on this model; try method="attnlrp"'):
        relprop.explain(model, x, 0, "lrp", rules=relprop.rules.epsilon)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        relprop.explain(model, x.abs(), 0, "lrp", rules=relprop.rules.epsilon)


def test_a_corrected_gradient_that_explodes_is_told_too():
    """Of two numbers that nearly cancel; no other method is named, for it is the one."""
    model = nn.Linear(2, 2, bias=False).double()
    model.weight.data = torch.tensor([[1.0, 1.0], [1e-9, 0.0]]).double()
    x = torch.tensor([[1.0, -1 + 1e-9]], dtype=torch.float64)
    with pytest.warns(UserWarning, match="explodes on this model$"):
        relprop.explain(model, x, 0, "attnlrp")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        relprop.explain(model, x.abs(), 0, "attnlrp")
