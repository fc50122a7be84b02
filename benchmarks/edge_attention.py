"""Edge-Set Attention: what its mask and its pooling bring, and whether maps find what decides.

python -m benchmarks.edge_attention      (configs/graph_edges.yaml, every arm, three seeds)
python -m benchmarks.edge_attention --seeds 0 --options data.train_size=200 --output FOLDER

Arms are the letters of the layers. A row has the test accuracy, of the best validated epoch. On
coloured edges it also has AUPRC and F1 of the maps' most relevant edges against those that decide,
of each class apart: two edges that meet are seen from either, and that two do not meet is seen from
the whole graph. Without decoys all edges that decide have colours that no other has, so that a map
which knows nothing but colours may be right: SSP is such a model, and "colours" such a map, 1 on
each red-blue edge. The maps are those of the last epoch, for the best is the first that makes no
error, and later ones are surer. Rows are kept in OUTPUT/rows.jsonl as soon as they are measured,
and a second call goes on there. OUTPUT/maps.png has test graphs of the first seed.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.arms_report import spread
from benchmarks.by_seed import (
    folder_of,
    measured,
    parsed,
    print_differences,
    print_row,
    print_table,
)
from benchmarks.kept_rows import Rows
from lightning_modules.data.graphs.base import GraphDataModule, GraphItems
from lightning_modules.data.graphs.coloured import BLUE, CLASS_NAMES, RED
from lightning_modules.experiment import Ended
from lightning_modules.metrics.sampled import SampledMetric
from lightning_modules.models.checkpoints import load_classifier
from lightning_modules.models.classifier import Classifier
from lightning_modules.protocols import evaluate, values_of
from lightning_modules.protocols.edges import DecidingEdges
from lightning_modules.tasks import Caption

CONFIG = Path(__file__).parents[1] / "configs" / "graph_edges.yaml"
DIGITS = "digits "  # begins the arms on handwritten digits
DECOYS = "decoys, "  # and those on coloured edges with decoys
ARMS = {
    "SSP": ["model.layers=SSP"],
    "MSP": ["model.layers=MSP"],
    "MMSP": ["model.layers=MMSP"],
    "MS, mean": ["model.layers=MS"],
}
ARMS |= {
    DECOYS + layers: [f"model.layers={layers}", "data.decoys=2"]
    for layers in ("SSP", "MSP", "MMSP")
}
ARMS |= {
    DIGITS + layers: [f"model.layers={layers}", "data.kind=digit_graphs", "trainer.max_epochs=40"]
    for layers in ("SSSP", "MMSP")
}
PAIRS = [(arm, "SSP") for arm in ("MSP", "MMSP", "MS, mean")]
PAIRS += [(DECOYS + layers, DECOYS + "SSP") for layers in ("MSP", "MMSP")]
PAIRS += [(DIGITS + "MMSP", DIGITS + "SSSP")]
METHODS = ["transformer_attribution", "generic_attention", "attnlrp", "raw_attention", "rollout"]
BASELINES = ["saliency", "random"]
COLOURS = "colours"
SCORES = {"AUPRC": "auprc/auprc", "F1": "f1/macro_f1"}
PICTURED = DECOYS + "MMSP"  # an arm
SHOWN = 4  # graphs of a picture


class OfLabel(DecidingEdges):
    """Deciding edges of the test graphs with one label."""

    def __init__(self, model: Classifier, data: GraphDataModule, label: int) -> None:
        super().__init__(model, data)
        self.label = label

    def samples(self) -> GraphItems:
        return GraphItems([x for x in super().samples().items if x["label"] == self.label])


def figures(ended: Ended, folder: Path) -> dict[str, float]:
    """What a row has."""
    found = {"accuracy": ended.tested["test/accuracy"]}
    if folder.name.startswith(DIGITS.strip()):
        return found
    module = load_classifier(folder / "checkpoints" / "last.ckpt").eval()
    names = ended.data.class_names
    for label, name in enumerate(names):
        protocol = OfLabel(module, ended.data, label)
        *_, progress = evaluate(protocol, [*METHODS, *BASELINES], {})
        for method, metrics in {**progress.metrics, COLOURS: of_colours(protocol)}.items():
            values = values_of(metrics)
            found |= {key(x, method, name): values[place, None] for x, place in SCORES.items()}
    draw(module, ended.data, folder / "maps.png")
    return found


def of_colours(protocol: OfLabel) -> dict[str, SampledMetric]:
    """Metrics of the map that is 1 on each red-blue edge."""
    metrics = protocol.metrics()
    for graph in (item["graph"] for item in protocol.samples().items):
        colors = np.sort(graph.nodes.argmax(axis=1)[graph.edges], axis=1)
        scores = torch.tensor((colors == [RED, BLUE]).all(axis=1)).float()[None]
        scored = (scores, torch.tensor(graph.deciding)[None], torch.ones_like(scores).bool())
        metrics["auprc"].update(*scored, torch.tensor([len(graph.edges)]))
        metrics["f1"].update(*scored)
    return metrics


def key(score: str, method: str, name: str) -> str:
    """What a row calls a score of the maps of a class."""
    return f"{score}, {method}, {name}"


def print_maps(rows: Rows) -> None:
    """Scores of the maps by arm and method: means and standard deviations over the seeds."""
    columns = [(score, name) for score in SCORES for name in CLASS_NAMES]
    print_row("arm", "method", *(f"{score}, {name}" for score, name in columns))
    print_row(*["---"] * (2 + len(columns)))
    for arm in dict.fromkeys(row["arm"] for row in rows):
        of_arm = [row for row in rows if row["arm"] == arm]
        for method in [*METHODS, *BASELINES, COLOURS]:
            keys = [key(score, method, name) for score, name in columns]
            print_row(arm, method, *(spread([row[x] for row in of_arm]) for x in keys))


def draw(module: Classifier, data: GraphDataModule, path: Path) -> None:
    """Test graphs with the maps of each method, for their true classes."""
    ((source, modality),) = module.sources.items()
    batch = data.collate([data.test_dataset[i] for i in range(SHOWN)])
    trace = module.record(batch)
    found = [
        module.explain_sources(trace, batch, [batch["label"]], method)[0][source].finite()
        for method in METHODS
    ]
    names = [data.class_names[label] for label in batch["label"].tolist()]
    titles = [method.removeprefix("transformer_") for method in METHODS]
    captions = [[Caption(title, f"why {name}?") for name in names] for title in titles]
    heading = f"Edges by their relevance: {module.hparams.layers}, {data.decoys} decoys"
    Image.fromarray(modality.samples_picture(batch, found, captions, heading, False)).save(path)


def main() -> None:
    chosen = parsed("python -m benchmarks.edge_attention", __doc__, ARMS, "runs/edge_attention")
    rows = measured(chosen, ARMS, figures, CONFIG)
    picture = folder_of(chosen.output, PICTURED, chosen.seeds[0]) / "maps.png"
    if picture.is_file():
        (chosen.output / "maps.png").write_bytes(picture.read_bytes())
    print_table([{x: row[x] for x in ("arm", "seed", "accuracy")} for row in rows])
    print_differences(rows, PAIRS, ["accuracy"])
    print()
    print_maps([row for row in rows if not row["arm"].startswith(DIGITS)])


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    main()
