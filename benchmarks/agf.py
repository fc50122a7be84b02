"""Attribution Guided Factorization, of networks with and without attention.

python -m benchmarks.agf                           (both; ten minutes on two cores)
python -m benchmarks.agf resnet --seeds 0 1 --output FOLDER

``resnet``: the published form (Gur, Ali, Wolf; AAAI 2021) and its published ablations.
``vit``: the form of transformers beside its ablation. A model is trained for each seed where
OUTPUT/KIND_SEED is no run; scores lie in OUTPUT as soon as they are measured, and a second call
goes on there. It needs captum.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import captum.attr
import torch
from torch import Tensor

import relprop
from benchmarks.lora import CONFIGS
from benchmarks.scores import print_table, scored, variant
from configs.schema import load_config
from lightning_modules.experiment import experiment
from lightning_modules.modalities import Explained
from lightning_modules.protocols.baselines import baseline
from lightning_modules.protocols.explainer import Explainer
from lightning_modules.utils.cli import Parser
from relprop.rules.agf import probability

SWITCHES = ("no_a", "no_fx", "no_fdx", "no_m", "no_reg", "gradcam")
for switch in SWITCHES:
    variant(f"agf_{switch}", "agf", rules=relprop.rules.agf(**{switch: True}))

CHANCE = ("random", "constant")
KINDS = {  # config, methods, scenes of two digits
    "resnet": (
        "resnet_digits.yaml",
        ("agf", "agf_without_gradient", "lrp", "gradcam_of_layer4", "attnlrp", *CHANCE)
        + tuple(f"agf_{switch}" for switch in SWITCHES),
        200,
    ),
    "vit": (
        "vit_digits.yaml",
        ("agf", "agf_without_gradient", "input_x_gradient_of_attention")
        + ("transformer_attribution", *CHANCE),
        400,
    ),
}


@baseline("gradcam_of_layer4")
def gradcam_of_layer4(explainer: Explainer, target: int | Tensor | None) -> dict[str, Explained]:
    """GradCAM (Selvaraju et al. 2017) of a ResNet's last feature map."""
    module, batch = explainer.module, explainer.batch
    target = relprop.resolve_target(target, explainer.trace.logits)
    method = captum.attr.LayerGradCam(module.of_backbone, module.backbone.layer4)
    found = method.attribute(module.inputs(batch), target, relu_attributions=True)[:, 0].detach()
    return maps(explainer, target, found)


@baseline("input_x_gradient_of_attention", signed=True)
def input_x_gradient_of_attention(
    explainer: Explainer, target: int | Tensor | None
) -> dict[str, Explained]:
    """Sum over blocks of sum_i x_i g_i, x what queries, keys and values are made of, g dp_t/dx."""
    module, batch = explainer.module, explainer.batch
    target = relprop.resolve_target(target, explainer.trace.logits)
    given: list[Tensor] = []
    hooks = [
        block.attn.register_forward_pre_hook(lambda attn, args: given.append(args[0]))
        for block in module.backbone.blocks
    ]
    try:
        with torch.enable_grad():
            logits = module.of_backbone(module.inputs(batch))
    finally:
        for hook in hooks:
            hook.remove()
    gradients = torch.autograd.grad(probability(logits, target).sum(), given)
    found = sum((x * g).sum(dim=-1) for x, g in zip(given, gradients, strict=True)).detach()
    rows, columns = explainer.trace.grid
    return maps(explainer, target, found[:, explainer.trace.prefix :].view(-1, rows, columns))


def maps(explainer: Explainer, target: Tensor, found: Tensor) -> dict[str, Explained]:
    """Maps [B, h, w] of the only source."""
    logits, grid = explainer.trace.logits, tuple(found.shape[1:])
    explanation = relprop.Explanation(found.flatten(1), target, logits, grid)
    return explainer.module.by_source(explainer.batch, explanation)


def trained(kind: str, seed: int, output: Path) -> Path:
    """The folder of a run, which is made where there is none."""
    folder = output / f"{kind}_{seed}"
    if not (folder / "metrics.json").is_file():
        options = [f"seed={seed}", f"run_dir={folder}", "tracker=null", "loggers={}"]
        experiment(load_config(CONFIGS / KINDS[kind][0], options), None)
    return folder


def main() -> None:
    parser = Parser("python -m benchmarks.agf", __doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=" or ".join(KINDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--limit", type=int, default=200, help="scenes of one digit")
    parser.add_argument("--output", type=Path, default=Path("runs/agf"))
    chosen = parser.parse_args()
    for kind in chosen.kinds:
        if kind not in KINDS:
            parser.error(f"{kind!r}; accepted: {' or '.join(KINDS)}")
    for kind in chosen.kinds or KINDS:
        _, methods, pairs = KINDS[kind]
        runs = {f"{kind}_{seed}": trained(kind, seed, chosen.output) for seed in chosen.seeds}
        for protocol in ("specificity", "segmentation", "perturbation"):
            limit = pairs if protocol == "specificity" else chosen.limit
            found = scored(runs, protocol, methods, "agf", limit, chosen.output)
            print_table(protocol, found, "agf", limit)


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    main()
