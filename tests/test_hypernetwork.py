import pytest
import torch
from torch import Tensor

from malmen.hypernetwork import HyperNetwork

KEY, VALUE, LAYERS, RANK = 7, 5, 3, 4


def network(n_blocks: int = 2, *, scramble: bool = False, observe: bool = True) -> HyperNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        built = HyperNetwork(
            key_size=KEY, value_size=VALUE, n_layers=LAYERS, rank=RANK, n_blocks=n_blocks
        ).double()
        if scramble:
            with torch.no_grad():
                for parameter in built.parameters():
                    parameter.add_(torch.randn_like(parameter))
    if observe:
        built.observe(*tokens(30, seed=1))
    return built


def tokens(n: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keys = 2 + 3 * torch.randn(n, KEY, generator=generator, dtype=torch.float64)
    return keys, 1e-6 * torch.randn(n, VALUE, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("n_blocks", [0, 1, 2])
@pytest.mark.parametrize("layer", range(LAYERS))
def test_at_initialisation_it_returns_its_normalised_input(n_blocks: int, layer: int) -> None:
    net = network(n_blocks)
    keys, gradients = tokens(6)
    pseudo_keys, pseudo_gradients = net(keys, gradients, layer)
    assert torch.equal(pseudo_keys, net.keys(keys))
    assert torch.equal(pseudo_gradients, net.gradients(gradients))
    assert 0.1 < pseudo_gradients.abs().mean() < 10  # normalised: the input was of size 1e-6


@pytest.mark.parametrize("layer", range(LAYERS))
def test_a_block_is_the_formula_of_the_paper(layer: int) -> None:
    net = network(2, scramble=True)
    keys, gradients = tokens(6)
    z = torch.cat([net.keys(keys), net.gradients(gradients)], dim=1)
    for block in net.blocks:
        relu = torch.relu(z @ (block.A @ block.B) + block.bias)
        z = z + torch.diag(block.scale[layer]).matmul(relu.T).T + block.offset[layer]
    found = torch.cat(net(keys, gradients, layer), dim=1)
    torch.testing.assert_close(found, z, rtol=1e-12, atol=1e-12)
    assert found.shape == (6, KEY + VALUE)


def test_layers_differ_by_scale_and_offset_only() -> None:
    net = network(1, scramble=True)
    outputs = [torch.cat(net(*tokens(4), layer), dim=1) for layer in range(LAYERS)]
    assert not torch.allclose(outputs[0], outputs[1])
    with torch.no_grad():
        for block in net.blocks:
            block.scale[1] = block.scale[0]
            block.offset[1] = block.offset[0]
    torch.testing.assert_close(torch.cat(net(*tokens(4), 1), dim=1), outputs[0])


def test_initial_sizes() -> None:
    net = network(2)
    size = KEY + VALUE
    shapes = {name: tuple(p.shape) for name, p in net.blocks[0].named_parameters()}
    assert shapes == {
        "A": (size, RANK),
        "B": (RANK, size),
        "bias": (size,),
        "scale": (LAYERS, size),
        "offset": (LAYERS, size),
    }
    assert not net.blocks[0].B.any()
    assert (net.blocks[0].scale == 1).all()
    assert not net.blocks[0].offset.any()


def test_the_gradient_reaches_B_at_initialisation() -> None:
    net = network(2)
    keys, gradients = tokens(6)
    sum(part.square().sum() for part in net(keys, gradients, 0)).backward()
    for block in net.blocks:
        # relu(0) passes no gradient: the network would stay where it starts for ever.
        assert block.B.grad.any(dim=0).all()
        assert block.bias.grad.all()
        assert not block.A.grad.any()  # it reaches A through B, from the second step on
        assert block.offset.grad[0].all()
        assert not block.offset.grad[1:].any()


def test_rows_are_independent_of_each_other() -> None:
    net = network(2, scramble=True)
    keys, gradients = tokens(9)
    whole = torch.cat(net(keys, gradients, 1), dim=1)
    parts = [
        torch.cat(net(u, g, 1), dim=1)
        for u, g in zip(keys.split(4), gradients.split(4), strict=True)
    ]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-13, atol=1e-13)


def test_no_token_gives_no_row() -> None:
    pseudo_keys, pseudo_gradients = network()(*tokens(0), 0)
    assert pseudo_keys.shape == (0, KEY)
    assert pseudo_gradients.shape == (0, VALUE)


def test_observing_moves_both_normalisers_and_a_forward_neither() -> None:
    net = network(observe=False)
    net.observe(*tokens(5))
    assert net.keys.count == net.gradients.count == 5
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net(*tokens(8, seed=9), 0)
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())
