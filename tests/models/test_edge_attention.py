"""Edge-Set Attention: layers against the published code's arrays, masks against loops."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.models.edge_attention import (
    AttentionLayer,
    EdgeSetAttention,
    PoolingLayer,
    Residual,
    check_layers,
    neighbours,
    share_a_node,
)
from lightning_modules.utils.errors import InputError

FILE = Path(__file__).parents[1] / "reference" / "seeds" / "esa.npz"
OPTIONS = {"width": 16, "heads": 4, "dropout": 0.0, "mlp_width": 24, "mlp_layers": 2}
# Of a part of a layer, what the published code calls it.
PUBLISHED = {"norm1": "norm_ln", "norm2": "norm_mlp_ln"}


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    with np.load(FILE) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


def published(reference: dict[str, Tensor], kind: str, place: str) -> nn.Module:
    """A layer with the stored weights."""
    options = {**OPTIONS, "norm": "pre", "mlp": kind, "sums": 8}
    pools = place == "decoder_0"
    layer = PoolingLayer(4, **options) if pools else AttentionLayer(**options)
    state = {}
    for name in layer.state_dict():
        part, _, leaf = name.rpartition(".")
        if name == "seeds":
            stored = "pma_S"
        elif part.startswith("attn."):
            stored = f"{'pma' if pools else 'sab'}_mab_fc_{part[-1]}_{leaf}"
        else:
            stored = f"{PUBLISHED.get(part) or 'mlp_' + part.replace('.', '_')}_{leaf}"
        array = reference[f"{kind}_w_{place}_{stored}"]
        state[name] = array[0] if name == "seeds" else array
    layer.double().load_state_dict(state)
    return layer


def same(found: Tensor, expected: Tensor) -> None:
    assert expected.std() > 0
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["standard", "gated"])
def test_every_layer_and_the_output_are_those_published_with_padding_attended_to(reference, kind):
    X, mask = reference["X"], reference[f"{kind}_mask"]
    x = published(reference, kind, "encoder_0")(X, mask)
    same(x, reference[f"{kind}_after_masked_block"])
    x = published(reference, kind, "encoder_1")(x, None)
    same(x, reference[f"{kind}_after_self_block"])
    x = published(reference, kind, "decoder_0")(x + X, None)
    same(x, reference[f"{kind}_after_pma"])
    x = published(reference, kind, "decoder_1")(x, None)
    same(x, reference[f"{kind}_after_decoder_self_block"])
    W, b = (reference[f"{kind}_w_decoder_linear_{x}"] for x in ("weight", "bias"))
    same(F.mish(F.linear(x.mean(dim=1), W, b)), reference[f"{kind}_output"])


def test_which_edges_share_a_node_is_as_published(reference):
    index, X = reference["edge_index"].T, reference["X"]
    assert torch.equal(share_a_node(index), reference["edge_adjacency"])
    first = 0
    for graph, count in enumerate(reference["edges_per_graph"].tolist()):
        real = reference["edge_features_flat"][first : first + count]
        assert torch.equal(X[graph, :count], real) and not X[graph, count:].any()
        nodes = reference["node_graph"][index[first : first + count]]
        assert (nodes == graph).all()
        for kind in ("standard", "gated"):
            there = reference[f"{kind}_mask"][graph, 0] == 0
            assert torch.equal(there[:count, :count], share_a_node(index[first : first + count]))
            assert not there[count:].any() and not there[:, count:].any()
        first += count


@pytest.mark.parametrize("kind", ["standard", "gated"])
def test_the_whole_model_is_the_one_published_where_no_graph_is_padded(reference, kind):
    """With the stored weights, on the larger graph alone; the published layers run one by one."""
    X, index = reference["X"][:1, :10], reference["edge_index"].T[None, :10]
    net = EdgeSetAttention(
        16, 12, layers="MSPS", seeds=4, embed_width=16, graph_width=12, norm="pre", mlp=kind,
        **OPTIONS,
    ).double()  # fmt: skip
    net.embed, net.head = nn.Identity(), nn.Identity()
    places = ("encoder_0", "encoder_1", "decoder_0", "decoder_1")
    net.blocks = nn.ModuleList(published(reference, kind, place) for place in places)
    W, b = (reference[f"{kind}_w_decoder_linear_{x}"] for x in ("weight", "bias"))
    net.graph.load_state_dict({"weight": W, "bias": b})
    x = net.blocks[0](X, reference[f"{kind}_mask"][:1, :, :10, :10])
    x = net.blocks[1](x, None)
    x = net.blocks[3](net.blocks[2](x + X, None), None)
    expected = F.mish(F.linear(x.mean(dim=1), W, b))
    same(net(X, torch.ones(1, 10), index), expected)


def test_masks_are_those_of_loops():
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(6, (3, 8, 2), generator=generator)
    index[0, 2] = torch.tensor([10, 11])  # no other edge is there
    real = torch.arange(8) < torch.tensor([8, 5, 1])[:, None]
    expected = torch.zeros(3, 8, 8, dtype=torch.bool)
    for b in range(3):
        for i in range(8):
            for j in range(8):
                share = set(index[b, i].tolist()) & set(index[b, j].tolist())
                expected[b, i, j] = i != j and bool(share) and bool(real[b, i] and real[b, j])
            if not expected[b, i].any():
                expected[b, i, i] = True
    assert torch.equal(neighbours(index, real), expected)


def net(layers: str, norm: str = "pre", **options) -> EdgeSetAttention:
    torch.manual_seed(0)
    options = {**OPTIONS, "seeds": 4, "embed_width": 8, "graph_width": 8, **options}
    return EdgeSetAttention(5, 3, layers=layers, norm=norm, mlp="gated", **options).double()


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("layers", ["M", "MS", "MSP", "SPS"])
def test_padding_is_never_attended_to(layers, norm):
    """A padded graph has the logits of itself alone, whatever stands in its padding."""
    model = net(layers, norm)
    edges, index = torch.randn(2, 9, 5).double(), torch.randint(6, (2, 9, 2))
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, 4:] = 0
    logits = model(edges, mask, index)
    alone = model(edges[1:, :4], mask[1:, :4], index[1:, :4])
    torch.testing.assert_close(logits[1:], alone)
    edges[1, 4:], index[1, 4:] = 100, index[1, 0]
    torch.testing.assert_close(model(edges, mask, index), logits)
    assert logits.std() > 0


def test_dropout_is_off_in_evaluation():
    model = net("MSPS", dropout=0.5).eval()
    given = torch.randn(2, 6, 5).double(), torch.ones(2, 6), torch.randint(4, (2, 6, 2))
    assert torch.equal(model(*given), model(*given))
    model.train()
    assert not torch.equal(model(*given), model(*given))


def test_edges_are_a_set():
    model, order = net("MMSP").eval(), torch.randperm(7)
    edges, index = torch.randn(1, 7, 5).double(), torch.randint(4, (1, 7, 2))
    mixed = model(edges[:, order], torch.ones(1, 7), index[:, order])
    torch.testing.assert_close(mixed, model(edges, torch.ones(1, 7), index))
    others = model(edges, torch.ones(1, 7), index.roll(1, dims=1))
    assert not torch.allclose(mixed, others)  # which edges meet counts


def test_post_norm_is_written_out():
    layer = AttentionLayer(**OPTIONS, norm="post", mlp="standard", sums=8).double()
    x = torch.randn(2, 5, 16).double()
    omega = ((8 + 1) / np.log(8 + 1) - 1) ** 0.5
    torch.testing.assert_close(layer.add1.omega, torch.full((16,), omega).double())
    nn.init.uniform_(layer.add1.omega)
    nn.init.uniform_(layer.add2.omega)
    r = layer.norm1(layer.add1.omega * x + layer.attn(x, x))
    expected = layer.norm2(layer.add2.omega * r + layer.mlp(r))
    torch.testing.assert_close(layer(x, None), expected)
    pool = PoolingLayer(3, **OPTIONS, norm="post", mlp="standard", sums=8).double()
    r = pool.norm1(pool.attn(pool.seeds.expand(2, -1, -1), x))
    expected = pool.norm2(pool.add2.omega * r + pool.mlp(r))
    torch.testing.assert_close(pool(x, None), expected)
    assert sum(isinstance(part, Residual) for part in pool.modules()) == 1


@pytest.mark.parametrize("layers", ["", "P", "MPM", "MSPP", "mmsp", "MMSX"])
def test_letters_that_make_no_model_are_refused(layers):
    with pytest.raises(InputError, match="model.layers: .*accepted: one or more of M and S"):
        check_layers("model.layers", layers, 32, 4)


def test_heads_must_divide_the_width():
    check_layers("model.layers", "MMSPSS", 32, 4)
    with pytest.raises(InputError, match="model.heads is 5, and the tokens have 32 channels"):
        check_layers("model.layers", "MMSP", 32, 5)
