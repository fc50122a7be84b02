"""Edge-Set Attention: what its mask and its pooling bring, and whether maps find what decides.

python -m benchmarks.edge_attention      (configs/graph_edges.yaml, every arm, three seeds)
python -m benchmarks.edge_attention --seeds 0 --options data.train_size=200 --output FOLDER

Arms are the letters of the layers. On coloured edges a row has the test accuracy, and AUPRC and F1
of the maps' most relevant edges against the two that decide; on handwritten digits as graphs it has
the accuracy. Rows are kept in OUTPUT/rows.jsonl as soon as they are measured, and a second call
goes on there. OUTPUT/maps.png has test graphs of the first seed.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

from PIL import Image

from benchmarks.by_seed import folder_of, join, measured, parsed, print_differences, print_table
from lightning_modules.experiment import Ended
from lightning_modules.protocols import PROTOCOLS, evaluate, values_of
from lightning_modules.tasks import Caption

CONFIG = Path(__file__).parents[1] / "configs" / "graph_edges.yaml"
DIGITS = "digits "  # begins the arms on handwritten digits
ARMS = {
    "SSP": ["model.layers=SSP"],
    "MSP": ["model.layers=MSP"],
    "MMSP": ["model.layers=MMSP"],
    "MS, mean": ["model.layers=MS"],
}
ARMS |= {
    DIGITS + layers: [f"model.layers={layers}", "data.kind=digit_graphs"]
    for layers in ("SSSP", "MMSP")
}
METHODS = ["transformer_attribution", "raw_attention", "attnlrp", "random"]
PICTURED = ("SSP", "MMSP")  # arms, side by side
SHOWN = 4  # graphs of a picture


def figures(ended: Ended, folder: Path) -> dict[str, float]:
    """What a row has."""
    found = {"accuracy": ended.tested["test/accuracy"]}
    if folder.name.startswith(DIGITS.strip()):
        return found
    protocol = PROTOCOLS["edges"](ended.model.eval(), ended.data)
    *_, progress = evaluate(protocol, METHODS, {})
    for score, called in {"auprc/auprc": "AUPRC", "f1/macro_f1": "F1"}.items():
        for method in METHODS:
            found[f"{called}, {method}"] = values_of(progress.metrics[method])[score, None]
    draw(ended, folder / "maps.png")
    return found


def draw(ended: Ended, path: Path) -> None:
    """Test graphs with the maps of each method, for their true classes."""
    module, data = ended.model, ended.data
    ((source, modality),) = module.sources.items()
    batch = data.collate([data.test_dataset[i] for i in range(SHOWN)])
    trace, shown = module.record(batch), METHODS[:-1]
    found = [
        module.explain_sources(trace, batch, [batch["label"]], method)[0][source].finite()
        for method in shown
    ]
    names = [data.class_names[label] for label in batch["label"].tolist()]
    titles = [method.removeprefix("transformer_") for method in shown]
    captions = [[Caption(title, f"why {name}?") for name in names] for title in titles]
    heading = f"{path.parent.name}: edges by their relevance"
    Image.fromarray(modality.samples_picture(batch, found, captions, heading, False)).save(path)


def main() -> None:
    chosen = parsed("python -m benchmarks.edge_attention", __doc__, ARMS, "runs/edge_attention")
    rows = measured(chosen, ARMS, figures, CONFIG)
    of_digits = [row for row in rows if row["arm"].startswith(DIGITS)]
    of_edges = [row for row in rows if row not in of_digits]
    print_table(of_edges)
    print_differences(of_edges, [(arm, "SSP") for arm in ARMS], ["accuracy"])
    print()
    print_table(of_digits)
    print_differences(of_digits, [(f"{DIGITS}MMSP", f"{DIGITS}SSSP")], ["accuracy"])
    pictures = [folder_of(chosen.output, arm, chosen.seeds[0]) / "maps.png" for arm in PICTURED]
    if there := [path for path in pictures if path.is_file()]:
        join(there, chosen.output / "maps.png")


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    main()
