"""How good an explanation is: the protocols of the paper's evaluation, by name."""

from lightning_modules.protocols.background import Background
from lightning_modules.protocols.base import MODEL, PROTOCOLS, Protocol
from lightning_modules.protocols.baselines import BASELINES
from lightning_modules.protocols.edges import DecidingEdges
from lightning_modules.protocols.evaluation import Progress, evaluate
from lightning_modules.protocols.explainer import scored_methods
from lightning_modules.protocols.grid import Grid
from lightning_modules.protocols.localisation import Segmentation, Specificity
from lightning_modules.protocols.perturbation import Perturbation
from lightning_modules.protocols.properties import Properties
from lightning_modules.protocols.rationales import Rationales
from lightning_modules.protocols.sanity import Sanity
from lightning_modules.protocols.scores import Score, compared, scores_of, values_of
from lightning_modules.protocols.shard import Shard, torchrun_shard

__all__ = [
    "BASELINES",
    "MODEL",
    "PROTOCOLS",
    "Background",
    "DecidingEdges",
    "Grid",
    "Perturbation",
    "Progress",
    "Properties",
    "Protocol",
    "Rationales",
    "Sanity",
    "Score",
    "Segmentation",
    "Shard",
    "Specificity",
    "compared",
    "evaluate",
    "scored_methods",
    "scores_of",
    "torchrun_shard",
    "values_of",
]
