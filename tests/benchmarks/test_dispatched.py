"""What PyTorch launches for a loss, counted for functions whose launches can be counted by hand."""

import pytest
import torch
from torch import Tensor

from benchmarks.dispatched import Operation, count_compiled, count_eager, definition, make_inputs
from bickd_kernels import bickd_loss


def product_and_sum(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b).sum()


def sum_of_exponentials(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b).exp().sum()


def operands(device: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """The operands of a product of 2 x 3 and 3 x 5, the first with a gradient."""
    return torch.ones(2, 3, dtype=dtype, device=device, requires_grad=True), torch.ones(3, 5, dtype=dtype, device=device)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_eager_code_is_counted_in_operations_that_are_not_views(device: str) -> None:
    assert count_eager(product_and_sum, *operands(device)) == [
        Operation("aten.mm.default", 4 * (6 + 15 + 10), 2 * 2 * 3 * 5),
        Operation("aten.sum.default", 4 * (10 + 1), 0),
        # The gradient of the loss, 1, in the shape of the loss.
        Operation("aten.ones_like.default", 4 * (1 + 1), 0),
        # It is expanded to the shape of the product, 2 x 5 times the same number, and multiplied with the transpose.
        Operation("aten.mm.default", 4 * (1 + 15 + 6), 2 * 2 * 5 * 3),
    ]


def test_bytes_are_those_of_the_dtype() -> None:
    assert [operation.moved for operation in count_eager(product_and_sum, *operands("meta", torch.bfloat16))] == [
        2 * (6 + 15 + 10),
        2 * (10 + 1),
        2 * (1 + 1),
        2 * (1 + 15 + 6),
    ]


def test_a_tensor_that_is_passed_twice_is_read_once() -> None:
    square = count_eager(lambda a: (a * a).sum(), torch.ones(2, 3, requires_grad=True))[0]
    assert square == Operation("aten.mul.Tensor", 4 * (6 + 6), 0)


def test_compiled_code_is_counted_in_nodes_after_fusion_every_time() -> None:
    eager = count_eager(sum_of_exponentials, *operands("meta"))
    assert len(eager) == 6
    for _ in range(2):
        compiled = count_compiled(sum_of_exponentials, *operands("cpu"))
        # Forward a product and a loop, backward a loop and a product: exponentials and sum are fused.
        assert len(compiled) == 4
        assert [operation.flops for operation in compiled if operation.flops] == [60, 60]
        assert [operation.moved for operation in compiled if operation.flops] == [4 * (6 + 15 + 10), 4 * (10 + 15 + 6)]


def test_counting_and_compiling_the_same_function_do_not_disturb_each_other() -> None:
    a, b = operands("cpu")
    for _ in range(2):
        loss = torch.compile(sum_of_exponentials, dynamic=False)(a, b)
        assert loss.item() == pytest.approx(10 * torch.e**3)
        assert len(count_compiled(sum_of_exponentials, a, b)) == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_definition_is_the_loss_at_its_defaults(dtype: torch.dtype) -> None:
    student, teacher, target = make_inputs(7, 5, dtype, "cpu")
    expected = bickd_loss(student.double(), teacher.double(), target, backend="reference")
    assert isinstance(expected, Tensor)
    assert definition(student, teacher, target).item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_definition_has_two_matrix_products_forward_and_two_backward() -> None:
    samples, classes = 12, 20
    products = [
        operation.flops
        for operation in count_eager(definition, *make_inputs(samples, classes, torch.bfloat16, "meta"))
        if operation.flops
    ]
    of_classes, of_samples = 2 * samples * classes**2, 2 * classes * samples**2
    assert sorted(products) == sorted([of_classes, of_samples] * 2)
