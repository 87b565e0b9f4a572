"""Prints the tables of docs/performance.md: what a training step has to move, compute and launch, and the least it takes.

    python -m benchmarks.roofline            all tables; compiling the definition takes a minute
    python -m benchmarks.roofline --kernels  the tables of the kernels alone

The kernels are counted by the formulas of ``kernel_traffic``. The definition (``bickd_kernels.reference`` without its masks)
is counted in what PyTorch dispatches, forward and backward: every operation that is no view is a launch and moves its
inputs and outputs. Under ``torch.compile`` the same is counted in the nodes that inductor is left with after fusion; on a
machine without a GPU it schedules for the CPU. A time is a floor, the larger of bytes by bandwidth and flops by peak rate of
each launch, added up; it is not a measurement, and knows no cache and no cost of launching.
"""

import argparse
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor
from torch._inductor.graph import GraphLowering
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.kernel_traffic import Work, training_step
from bickd_kernels import reference

SHAPES = [(64, 100), (128, 100), (256, 1000), (1024, 1000), (256, 21841)]

DATASHEETS = {
    "A100 SXM 80 GB": (2.039e12, 312e12),
    "H100 SXM": (3.35e12, 989e12),
    "B200": (8.0e12, 2250e12),
}
"""Bytes a second of memory and float16 flops a second of dense products, from the vendor's datasheets."""

PRECISIONS = {"bfloat16": (2, 1), "float32": (4, 2)}
"""Bytes of a logit, and float16 numbers in an operand of a product."""

LARGEST_COMPILED = 2000
"""Classes up to which the definition is compiled and run, for which its matrices have to fit into memory."""


def definition(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """``bickd_loss`` at its defaults, as bare formulas."""
    sides = reference.class_wise(student, teacher, 2.0, 0.2) + reference.sample_wise(student, teacher, target, 2.0, 0.2)
    return 0.1 * F.cross_entropy(student, target) + 0.9 * reference.kd(student, teacher, 4.0) + 4.0 * sides


def make_inputs(samples: int, classes: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Logits in float32, those of the student with a gradient, and targets."""
    student, teacher = (torch.randn(samples, classes, device=device) for _ in range(2))
    return student.requires_grad_(), teacher, torch.arange(samples, device=device) % classes


class CountOperations(TorchDispatchMode):
    """Operations that are dispatched and are no views, and the bytes of their inputs and outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self.moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        returns = func._schema.returns
        if not any(value.alias_info is not None and not value.alias_info.is_write for value in returns):
            self.operations += 1
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
            self.moved += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


def count_eager(samples: int, classes: int) -> tuple[int, int]:
    """Launches and bytes of the definition under autograd; nothing is computed."""
    inputs = make_inputs(samples, classes, "meta")
    with CountOperations() as count:
        definition(*inputs).backward()
    return count.operations, count.moved


def count_compiled(samples: int, classes: int) -> tuple[int, int]:
    """Nodes and bytes of the definition that ``torch.compile`` is left with after fusion."""
    counts: list[tuple[int, int]] = []
    codegen = GraphLowering.codegen

    def counting(self: Any) -> Any:
        result = codegen(self)
        moved, nodes, _ = self.count_bytes()
        counts.append((sum(1 for _, elements in nodes if elements), moved))
        return result

    torch._dynamo.reset()
    with (
        torch._inductor.config.patch(force_disable_caches=True),
        mock.patch.object(GraphLowering, "codegen", counting),
    ):
        torch.compile(definition, fullgraph=True)(*make_inputs(samples, classes, "cpu")).backward()
    return sum(nodes for nodes, _ in counts), sum(moved for _, moved in counts)


def floor(work: Work, bandwidth: float, peak: float) -> float:
    """Microseconds that a launch takes at least."""
    return 1e6 * max(work.compulsory / bandwidth, work.flops / peak)


def kernels_table(samples: int, classes: int, precision: str) -> list[str]:
    """One line for each launch, in Markdown."""
    lines = []
    for work in training_step(samples, classes, *PRECISIONS[precision]):
        floors = " | ".join(f"{floor(work, *rates):.2f}" for rates in DATASHEETS.values())
        moved = f"{work.compulsory / 1e6:.2f} | {work.requested / 1e6:.2f}"
        lines.append(
            f"| {samples}, {classes} | {precision} | `{work.kernel}` | {moved} | {work.flops / 1e9:.2f} | {floors} |"
        )
    return lines


def comparison_table(samples: int, classes: int) -> str:
    """What the kernels and the definition need for the same step in float32, in Markdown."""
    works = training_step(samples, classes, *PRECISIONS["float32"])
    eager_launches, eager_moved = count_eager(samples, classes)
    compiled = "- | -"
    if classes <= LARGEST_COMPILED:
        nodes, moved = count_compiled(samples, classes)
        compiled = f"{nodes} | {moved / 1e6:.1f}"
    kernels = f"{len(works)} | {sum(work.compulsory for work in works) / 1e6:.1f}"
    return f"| {samples}, {classes} | {kernels} | {eager_launches} | {eager_moved / 1e6:.1f} | {compiled} |"


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", action="store_true", help="only the tables of the kernels")
    arguments = parser.parse_args()
    console = Console(soft_wrap=True, markup=False, highlight=False)
    console.print(f"| B, C | logits | launch | compulsory MB | requested MB | Gflop | {' | '.join(DATASHEETS)} |")
    console.print("|---|---|---|---|---|---|---|---|---|")
    for shape in SHAPES:
        for precision in PRECISIONS:
            for line in kernels_table(*shape, precision):
                console.print(line)
    if arguments.kernels:
        return
    console.print("\n| B, C | kernels: launches | MB | autograd: launches | MB | torch.compile: nodes | MB |")
    console.print("|---|---|---|---|---|---|---|")
    for shape in SHAPES:
        console.print(comparison_table(*shape))


if __name__ == "__main__":
    main()
