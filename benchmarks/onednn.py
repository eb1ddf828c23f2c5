"""Time of single-precision matrix products: torch's default against oneDNN, as ratios.

Shapes are those of the language models and the hyper-network here; one thread; interleaved;
medians with quartiles.

    python benchmarks/onednn.py
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from malmen.lm.onednn import route_products

SHAPES = {
    "SmolLM2 feed-forward, up": (448, 576, 1536),
    "SmolLM2 feed-forward, down": (448, 1536, 576),
    "SmolLM2 head at the answers": (80, 576, 49152),
    "hyper-network block": (1024, 2112, 512),
    "desk GPT-2 feed-forward": (512, 128, 512),
}
REPEATS = 25


def seconds(work: Callable[[], Tensor]) -> float:
    """Return how long a product takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Print rates and their ratio."""
    torch.set_num_threads(1)
    cases = {name: (torch.randn(m, k), torch.randn(k, n)) for name, (m, k, n) in SHAPES.items()}
    # `out=` is a kernel of its own, which stays torch's: both can be timed in turn in one process.
    outs = {name: torch.empty(a.shape[0], b.shape[1]) for name, (a, b) in cases.items()}
    route_products()
    print(f"{'product':30} {'default':>8} {'oneDNN':>8} GFLOP/s {'ratio [quartiles]':>20}")
    for name, (a, b) in cases.items():
        pairs = []
        for _ in range(REPEATS + 1):
            default = seconds(partial(torch.mm, a, b, out=outs[name]))
            pairs.append((default, seconds(partial(torch.mm, a, b))))
        pairs = pairs[1:]  # the first one warms up
        flops = 2 * a.numel() * b.shape[1] / 1e9
        rates = [flops / statistics.median(pair[i] for pair in pairs) for i in (0, 1)]
        low, middle, high = statistics.quantiles([d / o for d, o in pairs], n=4)
        ratio = f"{middle:.2f} [{low:.2f}, {high:.2f}]"
        print(f"{name:30} {rates[0]:8.0f} {rates[1]:8.0f} {'':7} {ratio:>20}")


if __name__ == "__main__":
    main()
