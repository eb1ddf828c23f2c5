"""The replaced kernels are those of a whole process, so every test runs in one of its own."""

import subprocess
import sys

import pytest
import torch

from malmen.lm import onednn

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN"
)

PREAMBLE = """
import warnings
warnings.simplefilter("error")
import torch
from torch import nn
from malmen.lm import onednn
from malmen.lm.onednn import route_products
torch.manual_seed(0)
"""


def run(script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_network_and_its_gradients_stay_what_they_were() -> None:
    # Linear layers with and without bias, in two and three dimensions, and a product of parameters.
    run("""
net = nn.Sequential(nn.Linear(96, 160), nn.ReLU(), nn.Linear(160, 80, bias=False))
factor = nn.Parameter(torch.randn(80, 48))
x = torch.randn(8, 30, 96, requires_grad=True)
def results():
    tensors = [x, factor, *net.parameters()]
    y = net(x) @ factor + net(x[0, 0]).sum()
    return [y, *torch.autograd.grad(y.square().mean(), tensors)]
before = results()
product, taken = onednn._product, []
onednn._product = lambda *factors: (taken.append(factors), product(*factors))[1]
route_products()
route_products()  # a second time changes nothing
after = results()
for b, a in zip(before, after, strict=True):
    assert (a - b).abs().max() <= 1e-5 * b.abs().max()
assert taken, "nothing was replaced"
""")


def test_every_layout_of_both_factors_is_right() -> None:
    run("""
a, b = torch.randn(70, 130), torch.randn(130, 90)
exact = a.double() @ b.double()
route_products()
for left in (a, a.t().contiguous().t(), torch.cat([a, a], dim=1)[:, :130]):
    for right in (b, b.t().contiguous().t(), torch.cat([b, b], dim=1)[:, :90]):
        assert ((left @ right).double() - exact).abs().max() <= 1e-5 * exact.abs().max()
""")


def test_other_dtypes_sizes_and_scales_go_the_old_way() -> None:
    run("""
def results():
    torch.manual_seed(1)
    wide = torch.randn(300, 300)
    return [
        wide.double() @ wide.double(),
        wide.bfloat16() @ wide.bfloat16(),
        torch.randn(0, 300) @ wide,
        torch.randn(300, 0) @ torch.randn(0, 300),
        torch.randn(2, 3) @ torch.randn(3, 2),
        torch.addmm(wide, wide, wide),
        torch.addmm(wide[0], wide, wide, beta=0.5, alpha=2),
        torch.addmm(wide[0, :1], wide, wide),
    ]
before = results()
route_products()
for b, a in zip(before, results(), strict=True):
    assert a.dtype == b.dtype and torch.equal(a, b)
""")


def test_errors_stay_those_of_torch() -> None:
    run("""
route_products()
a, b = torch.randn(300, 300), torch.randn(301, 300)
for wrong in (lambda: a @ b, lambda: torch.addmm(b[0], a, b)):
    try:
        wrong()
    except RuntimeError as error:
        assert "shapes" in str(error), error
    else:
        raise AssertionError("no error")
""")


def test_the_choice_follows_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    for maker, expected in (("AuthenticAMD", True), ("GenuineIntel", False)):
        monkeypatch.setattr(
            "pathlib.Path.read_text", lambda *_, maker=maker, **__: f"vendor_id\t: {maker}\n"
        )
        assert onednn.is_faster() is expected
