from pathlib import Path

import pytest
import torch
from hypothesis import settings
from timm.models.vision_transformer import VisionTransformer

pytest.register_assert_rewrite("tests.helpers.plain", "tests.helpers.runs")
torch.set_num_threads(1)
# The same 100 cases in every run; 500 with pytest --hypothesis-profile=thorough, and others with
# --hypothesis-profile=default.
settings.register_profile("reproducible", derandomize=True)
settings.register_profile("thorough", derandomize=True, max_examples=500)
settings.load_profile("reproducible")


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Trains an experiment with some options, once; who writes into the run's folder copies it."""
    from tests.helpers.runs import run  # which most tests do without

    made = {}

    def trained(*options: str, experiment: str = "digits") -> Path:
        if (experiment, options) not in made:
            folder = tmp_path_factory.mktemp("trained") / "run"
            made[experiment, options] = run(folder, *options, experiment=experiment)
        return made[experiment, options]

    return trained


@pytest.fixture
def few_draws(monkeypatch):
    """Intervals of scores have 50 draws instead of 1,000, which take seconds for all methods."""
    from lightning_modules.metrics import sampled

    monkeypatch.setattr(sampled, "DRAWS", 50)


@pytest.fixture
def tiny_vit():
    """Makes timm ViTs of 16 patches and 3 blocks, in float64, whose every parameter counts."""

    def make(**options) -> VisionTransformer:
        torch.manual_seed(0)
        sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3}
        model = VisionTransformer(**sizes | {"num_classes": 5} | options).double().eval()
        for parameter in model.parameters():  # timm's biases and the like start as 0 or 1
            parameter.data += 0.2 * torch.randn_like(parameter)
        return model

    return make


@pytest.fixture
def images():
    return torch.randn(
        3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


SLOW = ("training/", "commands/test_own", "commands/test_import")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what starts processes or a browser, so that pytest -m "not slow" is quick.

    What is marked comes first, so that no process is left with a long file in the end.
    """
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.browser)
        if any(f"tests/{place}" in item.path.as_posix() for place in SLOW):
            item.add_marker(pytest.mark.slow)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
