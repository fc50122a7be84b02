"""Few-shot classifiers: training, explanations of queries and of their support."""

import math

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lightning_modules import FewShotClassifier, ViTClassifier
from lightning_modules.metrics import EpisodeAccuracy, EpisodeInterval
from lightning_modules.models.beside import take_beside
from lightning_modules.models.few_shot_support import compare
from lightning_modules.protocols import PROTOCOLS
from lightning_modules.utils.errors import InputError
from relprop.recording.run import as_if_alone, evaluating
from tests.helpers.maps import Softmaxes

SIZES = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
PICTURE = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
EPISODE = {"way": 3, "shot": 2, "queries": 2}
INPUT = PICTURE | {"interpolation": "bicubic", "crop_pct": 1.0, "episode": EPISODE}
NAMES = ["class 1", "class 2", "class 3"]
C, K, Q, N = 3, 2, 6, 16
HEADS = pytest.mark.parametrize("head", ["cross", "prototype"])


def classifier(head: str = "cross", **options) -> FewShotClassifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        given = {"key_width": 8, "value_width": 8, "model_options": SIZES}
        made = FewShotClassifier(NAMES, INPUT, "vit_tiny_patch16_224", head=head, **given | options)
        for parameter in made.parameters():  # distances of 1 and more
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    return made.double()


def episodes(count: int = 2, seed: int = 1, **more) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = {"support": (count, C, K), "image": (count * Q,)}
    batch = {
        name: torch.randn(*size, 3, 32, 32, generator=generator) for name, size in sizes.items()
    }
    return batch | {"label": torch.arange(C).repeat(count * Q // C)} | more


# -------------------------------------------------------------------------------- logits


@HEADS
@torch.no_grad()
def test_queries_are_compared_with_the_support_of_their_own_episode(head):
    module, batch = classifier(head).eval(), episodes()
    logits = module(batch)
    assert logits.shape == (2 * Q, C)
    for episode in range(2):
        rows = slice(episode * Q, (episode + 1) * Q)
        alone = {"support": batch["support"][[episode]], "image": batch["image"][rows]}
        torch.testing.assert_close(module(alone), logits[rows])
    part = module.part_of(batch, [1, 7, 8])
    torch.testing.assert_close(module(part), logits[[1, 7, 8]])


@HEADS
@torch.no_grad()
def test_the_order_of_a_support_does_not_matter_and_its_classes_do(head):
    module, batch = classifier(head).eval(), episodes(1)
    logits = module(batch)
    turned = batch | {"support": batch["support"].flip(2)}
    torch.testing.assert_close(module(turned), logits)
    swapped = batch | {"support": batch["support"][:, [2, 0, 1]]}
    torch.testing.assert_close(module(swapped), logits[:, [2, 0, 1]])


@HEADS
def test_a_gradient_of_two_episodes_is_the_mean_of_those_of_each(head):
    """As two processes with an episode each have it."""
    module, batch = classifier(head), episodes()

    def gradients(batch: dict[str, Tensor]) -> list[Tensor]:
        loss = F.cross_entropy(module(batch), batch["label"])
        return list(torch.autograd.grad(loss, module.parameters()))

    rows = [slice(0, Q), slice(Q, 2 * Q)]
    each = [
        gradients(
            {"support": batch["support"][[i]], **{x: batch[x][of] for x in ("image", "label")}}
        )
        for i, of in enumerate(rows)
    ]
    for both, one, other in zip(gradients(batch), *each, strict=True):
        torch.testing.assert_close(both, (one + other) / 2)


def test_accuracy_is_the_mean_of_episodes_with_its_interval():
    labels = torch.arange(3).repeat(4 * 2)
    logits = F.one_hot(labels, 3).float()
    wrong = [[], [0, 1, 2], [3], [0, 1, 2, 3, 4, 5]]  # of the six queries of each
    for episode, places in enumerate(wrong):
        for place in places:
            logits[6 * episode + place] = logits[6 * episode + place].roll(1)
    shares = torch.tensor([1 - len(x) / 6 for x in wrong])
    metrics = EpisodeAccuracy(6), EpisodeInterval(6)
    for metric in metrics:
        metric.update(logits[:12], labels[:12])
        metric.update(logits[12:], labels[12:])
    torch.testing.assert_close(metrics[0].compute(), shares.mean())
    variance = sum((x - shares.mean()) ** 2 for x in shares) / 3
    torch.testing.assert_close(metrics[1].compute(), 1.96 * (variance / 4).sqrt())


def test_other_data_and_models_are_refused():
    with pytest.raises(
        InputError, match="the data are no episodes; accepted: data.kind=digit_epis"
    ):
        FewShotClassifier(NAMES, PICTURE, "vit_tiny_patch16_224")
    with pytest.raises(InputError, match="the model is a ResNet; accepted: a plain ViT"):
        FewShotClassifier(NAMES, INPUT, "resnet18")


# ------------------------------------------------------------------------ maps of queries


@HEADS
@pytest.mark.parametrize("method", ["transformer_attribution", "generic_attention", "attnlrp"])
def test_each_class_of_an_episode_has_a_map(head, method):
    """A head that subtracts two streams once gave maps of zeros to all classes but the last."""
    module, batch = classifier(head), episodes()
    trace = module.record(batch)
    torch.testing.assert_close(trace.logits, module.eval()(batch).detach())
    found = module.explain_classes(trace, batch, range(C), method)
    for one in found:
        assert one.relevance.shape == (2 * Q, N) and one.grid == (4, 4)
        assert one.relevance.isfinite().all() and one.relevance.abs().sum(dim=1).all()
    assert not torch.allclose(found[0].relevance, found[1].relevance)


def test_a_map_does_not_depend_on_the_other_queries():
    module, batch = classifier(), episodes()
    found = module.explain(batch, 1).relevance
    part = module.explain(module.part_of(batch, [4, 9]), 1).relevance
    torch.testing.assert_close(part, found[[4, 9]])


# ---------------------------------------------------------------------- maps of the support


def slowly(module: FewShotClassifier, image: Tensor, support: Tensor, label: int) -> Tensor:
    """rho [K, N] of one query [3, H, W] and the support [K, 3, H, W] of one class, by loops."""
    head, trunk = module.backbone.head, module.backbone.trunk
    for block in trunk.blocks:
        block.attn.fused_attn = False
    x = trunk.forward_features(image[None])[0].detach()
    seen, tokens = [], []
    for picture in support:
        with Softmaxes() as softmaxes:
            tokens.append(trunk.forward_features(picture[None])[0])
        seen.append(softmaxes.maps)
    keys, values = head.key(torch.cat(tokens)), head.value(torch.cat(tokens))
    q, w = head.key(x), head.value(x)
    a = torch.stack([(keys @ q_p / math.sqrt(8)).softmax(dim=0) for q_p in q])  # [N, K N]
    apart = torch.stack([((w[p] - a[p] @ values) ** 2).sum() for p in range(N)])
    logit = -apart.sum() / N
    (G,) = torch.autograd.grad(logit, a, retain_graph=True)
    rho = torch.zeros(len(support), N, dtype=torch.float64)
    for j in range(len(support)):
        for m in range(N):
            place = j * N + m
            rho[j, m] = sum(
                apart[p] / apart.sum() * max(0, G[p, place] * a[p, place]) for p in range(N)
            )
        for A in reversed(seen[j]):
            (g,) = torch.autograd.grad(logit, A, retain_graph=True)
            factor = (g * A).clamp(min=0)[0].mean(dim=0)
            rho[j] = rho[j] @ (torch.eye(N, dtype=torch.float64) + factor)
    return rho.detach()


def test_the_support_is_explained_by_the_definition_of_rho():
    module, batch = classifier().eval(), episodes()
    comparisons = module.record(batch).comparisons
    for sample in (1, 8):
        found, episode = comparisons.of(sample), sample // Q
        for label in range(C):
            support = batch["support"][episode, label].double()
            expected = slowly(module, batch["image"][sample].double(), support, label)
            torch.testing.assert_close(found.relevance[label], expected)
        torch.testing.assert_close(found.attention.sum(dim=(-2, -1)), torch.ones(C, N).double())
    assert found.relevance.min() >= 0 and found.relevance.std() > 0


def test_pictures_that_are_not_there_are_compared_with_nothing():
    module, batch = classifier().eval(), episodes(1)
    shots = torch.tensor([[2, 1, 2]])
    found = module.record(batch | {"shots": shots}).comparisons.of(0)
    assert not found.relevance[1, 1].any() and not found.attention[1, :, 1].any()
    less = slowly(module, batch["image"][0].double(), batch["support"][0, 1, :1].double(), 1)
    torch.testing.assert_close(found.relevance[1, :1], less)


def test_a_prototype_is_compared_with_all_patches_alike_before_the_blocks():
    module, batch = classifier("prototype").eval(), episodes(1)
    inputs = module.inputs(batch)
    shots = torch.tensor([[2, 1, 2]])
    with as_if_alone("cpu"), evaluating(module.backbone):
        found = compare(module.backbone, inputs["image"][:1], inputs["support"], shots)
    assert found.attention is None
    for label, count in enumerate(shots[0].tolist()):
        rho = found.relevance[label, :count]
        assert (rho >= 1 / (count * N) - 1e-9).all() and rho.std() > 0


def test_parameters_and_modes_are_as_before():
    module, batch = classifier().train(), episodes(1)
    module.record(batch).comparisons.of(0)
    assert all(x.training for x in module.modules())
    assert all(x.grad is None and x.requires_grad for x in module.parameters())


# ------------------------------------------------------------------ a support of one's own


@pytest.fixture
def folder(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for name, count in {"ant": 3, "bee": 1}.items():
        (tmp_path / name).mkdir()
        for i in range(count):
            pixels = torch.randint(256, (40, 48, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(tmp_path / name / f"{i}.png")
    return tmp_path


def test_a_support_names_the_classes_and_is_explained(folder):
    module = classifier().eval()
    with pytest.raises(InputError, match="--support: the model tells classes apart by pictures"):
        take_beside(module, {})
    taken = take_beside(module, {"support": str(folder)})
    assert module.hparams.class_names == module.task.class_names == ["ant", "bee"]
    picture = Image.open(folder / "bee" / "0.png")
    batch = module.prepare([picture, picture.rotate(90)])
    logits = module(batch)
    assert logits.shape == (2, 2) and logits[0].argmax() == 1  # it is its own support
    found = module.explain(batch, 0)
    assert found.comparisons.of(1).shots.tolist() == [3, 1]
    (folder / "ant" / "2.png").unlink()
    assert take_beside(module, {"support": str(folder)}) != taken


def test_what_is_no_support_is_told(folder):
    module = classifier()
    vit = ViTClassifier(NAMES, PICTURE, "vit_tiny_patch16_224", model_options=SIZES)
    with pytest.raises(InputError, match="the model is of the kind vit, which takes none"):
        take_beside(vit, {"support": str(folder)})
    (folder / "empty").mkdir()
    for path, problem in {
        folder: "no pictures in empty",
        folder / "ant": "0 class folders",
        folder / "fox": "no such folder",
    }.items():
        with pytest.raises(InputError, match=f"{problem}; accepted: --support FOLDER, with two"):
            take_beside(module, {"support": str(path)})


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_protocols_refuse_what_is_decided_by_more_than_a_sample(protocol):
    told = "decides by more than the sample|accepted: (texts|graphs)|is multiclass; accepted: "
    with pytest.raises(InputError, match=told):
        PROTOCOLS[protocol](classifier(), None)
