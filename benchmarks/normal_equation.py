"""Time the forms of the normal equation, and what their operations cost against a matrix product.

The first table compares the form that `cheaper_form` picks with the one that is faster here. The
second holds the costs behind that choice, CHOLESKY_COST and TRIANGULAR_COST of
`malmen.normal_equation`: seconds per floating-point operation, divided by those of the Gram matrix
of the same keys. Measurements alternate, so that a busy machine slows all of them alike.

    OMP_NUM_THREADS=2 python benchmarks/normal_equation.py --key-sizes 576 1536 3072
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from malmen.normal_equation import (
    CHOLESKY_COST,
    TRIANGULAR_COST,
    Form,
    cheaper_form,
    parameter_shift,
)

FORMS: tuple[Form, ...] = ("primal", "dual")
PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


def main() -> None:
    """Print both tables."""
    arguments = parse_arguments()
    precision, value_size = PRECISIONS[arguments.precision], arguments.value_size
    print(
        f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.precision}, "
        f"d' = {value_size}, median of {arguments.repeats}"
    )

    print("\nforward and backward, seconds")
    print(f"{'d':>6}{'n':>7}{'primal':>10}{'dual':>10}  {'picked':8}{'faster':8}{'loss':>6}")
    for d in arguments.key_sizes:
        for n in (max(1, round(ratio * d)) for ratio in arguments.ratios):
            seconds = time_forms(d, n, value_size, precision, arguments.repeats)
            picked: Form = cheaper_form(d=d, n=n, value_size=value_size, precision=precision)
            picked = "dual" if picked == "dual" else "primal"  # streamed is primal in pieces
            faster = min(seconds, key=seconds.__getitem__)
            loss = seconds[picked] / seconds[faster] - 1
            times = f"{seconds['primal']:10.4f}{seconds['dual']:10.4f}"
            print(f"{d:6}{n:7}{times}  {picked:8}{faster:8}{loss:6.0%}", flush=True)

    print("\ncost of an operation relative to the Gram matrix (GFLOP/s: of that)")
    print(f"{'order':>6}{'GFLOP/s':>10}{'Cholesky':>10}{'triangular':>12}")
    costs = [time_operations(d, value_size, precision, arguments.repeats) for d in arguments.orders]
    for order, (product, cholesky, triangular) in zip(arguments.orders, costs, strict=True):
        rate = 1e-9 / product
        print(f"{order:6}{rate:10.1f}{cholesky / product:10.2f}{triangular / product:12.2f}")
    medians = [statistics.median(cost[i] / cost[0] for cost in costs) for i in (1, 2)]
    print(f"{'median':>16}{medians[0]:10.2f}{medians[1]:12.2f}")
    print(f"{'assumed':>16}{CHOLESKY_COST:10.2f}{TRIANGULAR_COST:12.2f}")


def parse_arguments() -> argparse.Namespace:
    """Read the command line; the defaults take about a minute on two cores."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--key-sizes", type=int, nargs="+", default=[384, 768, 1536], help="d")
    parser.add_argument(
        "--ratios",
        type=float,
        nargs="+",
        default=[0.25, 0.5, 0.8, 1.0, 1.25, 2.0],
        help="columns for each key size, n / d",
    )
    parser.add_argument(
        "--orders",
        type=int,
        nargs="+",
        default=[256, 512, 1024, 2048],
        help="orders of the systems whose operations are timed",
    )
    parser.add_argument("--value-size", type=int, default=576, help="d'")
    parser.add_argument("--precision", choices=PRECISIONS, default="float64", help="of the solve")
    parser.add_argument("--repeats", type=int, default=5, help="of each measurement")
    return parser.parse_args()


def time_forms(
    d: int, n: int, value_size: int, precision: torch.dtype, repeats: int
) -> dict[Form, float]:
    """Return each form's median time, in seconds, for a shift and both of its gradients."""
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(d, n, generator=generator)
    differences = torch.randn(value_size, n, generator=generator, requires_grad=True)
    grad_shift = torch.randn(value_size, d, generator=generator)
    lam = torch.ones((), requires_grad=True)

    def forward_and_backward(form: Form) -> None:
        shift = parameter_shift(keys, differences, lam, form=form, precision=precision)
        torch.autograd.grad(shift, (differences, lam), grad_shift)

    tasks = [partial(forward_and_backward, form) for form in FORMS]
    return dict(zip(FORMS, alternate(tasks, repeats), strict=True))


def time_operations(
    order: int, value_size: int, precision: torch.dtype, repeats: int
) -> tuple[float, float, float]:
    """Return seconds per operation of a Gram matrix, its Cholesky factor and a pair of solves."""
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(order, order, generator=generator, dtype=precision)
    system = keys @ keys.T + order * torch.eye(order, dtype=precision)
    factor = torch.linalg.cholesky(system)
    rows = torch.randn(value_size, order, generator=generator, dtype=precision)
    gram, cholesky, triangular = alternate(
        [
            lambda: keys @ keys.T,
            lambda: torch.linalg.cholesky_ex(system),
            lambda: torch.cholesky_solve(rows.T, factor).T,
        ],
        repeats,
    )
    solve_operations = 2 * value_size * order**2
    return gram / (2 * order**3), cholesky / (order**3 / 3), triangular / solve_operations


def alternate(tasks: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Time the tasks by turns, after one unmeasured turn, and return each one's median."""
    seconds: list[list[float]] = [[] for _ in tasks]
    for turn in range(repeats + 1):
        for task, times in zip(tasks, seconds, strict=True):
            start = time.perf_counter()
            task()
            if turn:
                times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in seconds]


if __name__ == "__main__":
    main()
