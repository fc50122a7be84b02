"""The notebooks run from top to bottom, in a kernel of this Python, and find what they claim."""

import re
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


class ThisPython(AsyncKernelManager):
    """Starts this interpreter, whatever kernels are installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="this Python", language="python")


def run(name: str, monkeypatch) -> dict[str, str]:
    """Execute a notebook; what each cell printed, by the cell's id. A cell's error is raised."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_manager_class=ThisPython,
        resources={"metadata": {"path": str(ROOT)}},
    )
    client.execute()
    return {
        cell.id: "".join(output.get("text", "") for output in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    }


def percent(printed: str) -> int:
    return int(re.search(r"(\d+)%", printed)[1])


def test_images(monkeypatch):
    printed = run("images.ipynb", monkeypatch)
    assert percent(printed["model"]) > 60
    difference = float(re.search(r"model.explain: (\S+)", printed["product"])[1])
    assert difference < 1e-5
    lines = (line.split() for line in printed["specificity"].splitlines())
    specificity = {method: float(score) for method, score in lines}
    assert specificity["transformer_attribution"] > 0.6
    assert specificity["rollout"] == pytest.approx(0.5, abs=0.01)


def test_texts(monkeypatch):
    printed = run("texts.ipynb", monkeypatch)
    assert percent(printed["train"]) > 75
    assert percent(printed["contrast"]) > 30  # of some 13 words, one would be found by chance in 8%
    assert "no relevance rule for torch.logsumexp" in printed["refused"]
    scores = dict(line.split() for line in printed["words"].splitlines())
    assert max(scores, key=lambda word: float(scores[word])) in ("hardly", "masterpiece.")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_committed_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        assert cell.cell_type == "markdown" or (not cell.outputs and cell.execution_count is None)
