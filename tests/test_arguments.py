"""Wrong arguments are refused with an error that names the argument, its value and what is allowed."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from cases import KINDS, LABELLED_KINDS, Inputs, call, make_inputs

from bickd_kernels import bickd_loss, bilateral_loss

LOSSES = [pytest.param(bilateral_loss, id="bilateral"), pytest.param(bickd_loss, id="bickd")]
BAD_NUMBERS: tuple[tuple[Any, type[Exception], str], ...] = (
    (math.nan, ValueError, "finite, got nan"),
    (math.inf, ValueError, "finite, got inf"),
    (-math.inf, ValueError, "finite, got -inf"),
    ("1.0", TypeError, "number, got str"),
    (True, TypeError, "number, got bool"),
    (None, TypeError, "number, got NoneType"),
    (torch.tensor(1.0), TypeError, r"number, got Tensor; call \.item\(\) on it"),
    (1j, TypeError, "number, got complex"),
)


def named_for(loss: Any, name: str) -> str:
    """The option's name in ``loss``: ``bickd_loss`` has another one for ``temperature``."""
    return "bilateral_temperature" if loss is bickd_loss and name == "temperature" else name


@pytest.fixture
def inputs() -> Inputs:
    return make_inputs(4, 3)._replace(target=torch.tensor([0, 1, 2, 1]))


@pytest.mark.parametrize("side", ["student_logits", "teacher_logits"])
@pytest.mark.parametrize("loss", LOSSES)
def test_logits_that_are_not_a_tensor_are_refused(loss: Any, side: str, inputs: Inputs) -> None:
    arguments = dict(zip(("student_logits", "teacher_logits"), inputs[:2], strict=True))
    for wrong, name in ((np.zeros((4, 3)), "ndarray"), ([[0.0]], "list"), (None, "NoneType")):
        with pytest.raises(TypeError, match=rf"^{side} must be a torch\.Tensor, got {name}"):
            loss(**{**arguments, side: wrong}, target=inputs.target)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
@pytest.mark.parametrize("side", ["student_logits", "teacher_logits"])
@pytest.mark.parametrize("loss", LOSSES)
def test_logits_that_are_not_floating_point_are_refused(loss: Any, side: str, dtype: torch.dtype, inputs: Inputs) -> None:
    arguments = dict(zip(("student_logits", "teacher_logits"), inputs[:2], strict=True))
    with pytest.raises(TypeError, match=rf"^{side} must be float16, .*float64, got {dtype}"):
        loss(**{**arguments, side: torch.zeros(4, 3, dtype=dtype)}, target=inputs.target)


@pytest.mark.parametrize("shape", [(), (3,), (4, 0), (0, 0)])
@pytest.mark.parametrize("loss", LOSSES)
def test_logits_without_a_sample_dimension_or_without_classes_are_refused(loss: Any, shape: tuple[int, ...]) -> None:
    logits = torch.zeros(shape)
    pattern = r"^student_logits must have shape \(B, \.\.\., C\) with at least one class, got \("
    with pytest.raises(ValueError, match=pattern + ", ".join(map(str, shape))):
        loss(logits, logits, torch.zeros(shape[:-1], dtype=torch.int64))


@pytest.mark.parametrize("shape", [(4, 2), (3, 3), (1, 3), (4, 1), (2, 2, 3)])
@pytest.mark.parametrize("loss", LOSSES)
def test_logits_of_different_shapes_are_refused(loss: Any, shape: tuple[int, ...], inputs: Inputs) -> None:
    got = ", ".join(map(str, shape))
    with pytest.raises(ValueError, match=rf"^teacher_logits must have the shape .*\(4, 3\), got \({got}\)"):
        loss(inputs.student, torch.zeros(shape), inputs.target)


@pytest.mark.parametrize("loss", LOSSES)
def test_tensors_on_different_devices_are_refused(loss: Any, inputs: Inputs) -> None:
    with pytest.raises(ValueError, match=r"^teacher_logits must be on the device of student_logits, cpu, got meta"):
        loss(inputs.student, inputs.teacher.to("meta"), inputs.target)
    with pytest.raises(ValueError, match=r"^target must be on the device of student_logits, cpu, got meta"):
        loss(inputs.student, inputs.teacher, inputs.target.to("meta"))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_target_that_is_not_a_tensor_is_refused(loss: Any, inputs: Inputs) -> None:
    with pytest.raises(TypeError, match=r"^target must be a torch\.Tensor.*, got list"):
        loss(inputs.student, inputs.teacher, [0, 1, 2, 1])


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64, torch.uint16])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_target_that_is_neither_integer_nor_floating_is_refused(loss: Any, dtype: torch.dtype, inputs: Inputs) -> None:
    with pytest.raises(TypeError, match=rf"^target must be labels of an integer .* of a floating dtype, got {dtype}"):
        loss(inputs.student, inputs.teacher, inputs.target.to(dtype))


@pytest.mark.parametrize("shape", [(4,), (4, 2), (3, 3), (4, 3, 1)])
@pytest.mark.parametrize("loss", LOSSES)
def test_probabilities_of_the_wrong_shape_are_refused(loss: Any, shape: tuple[int, ...], inputs: Inputs) -> None:
    got = ", ".join(map(str, shape))
    with pytest.raises(ValueError, match=rf"^target must have shape \(4, 3\), .* for probabilities, got \({got}"):
        loss(inputs.student, inputs.teacher, torch.zeros(shape))


@pytest.mark.parametrize("loss", LOSSES)
def test_positives_by_label_need_labels(loss: Any, inputs: Inputs) -> None:
    probabilities = torch.softmax(inputs.student, 1)
    with pytest.raises(ValueError, match=r'^positives must be "sample" or None .*: target is class probabilities'):
        loss(inputs.student, inputs.teacher, probabilities, positives="label")


def test_positives_by_label_need_a_target(inputs: Inputs) -> None:
    with pytest.raises(ValueError, match=r'^positives must be "sample" or None .*: target is None'):
        bilateral_loss(inputs.student, inputs.teacher, positives="label")


@pytest.mark.parametrize(("name", "allowed"), [("positives", '"label", "sample" or None'), ("similarity", '"cosine" or ')])
@pytest.mark.parametrize("value", ["labels", 1, ["sample"]])
@pytest.mark.parametrize("loss", LOSSES)
def test_an_unknown_value_of_positives_or_similarity_is_refused(
    loss: Any, value: Any, name: str, allowed: str, inputs: Inputs
) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be {allowed}.*, got "):
        loss(*inputs, **{name: value})


@pytest.mark.parametrize("value", [-0.1, 1.0, 2])
def test_a_label_smoothing_out_of_range_is_refused(value: float, inputs: Inputs) -> None:
    with pytest.raises(ValueError, match=rf"^label_smoothing must be in \[0, 1\), got {float(value)}"):
        bickd_loss(*inputs, label_smoothing=value)


@pytest.mark.parametrize(
    ("loss", "name"), [(bilateral_loss, "kd_weight"), (bickd_loss, "temperature"), (bickd_loss, "backed")]
)
def test_an_option_that_a_loss_does_not_have_is_refused(loss: Any, name: str, inputs: Inputs) -> None:
    with pytest.raises(TypeError, match=rf"^{loss.__name__} has no option '{name}'; it has contrast_temperature, "):
        loss(*inputs, **{name: 1.0})


@pytest.mark.parametrize("shape", [(3,), (4, 1), (4, 3), ()])
@pytest.mark.parametrize("loss", LOSSES)
def test_labels_of_the_wrong_shape_are_refused(loss: Any, shape: tuple[int, ...], inputs: Inputs) -> None:
    got = ", ".join(map(str, shape))
    with pytest.raises(ValueError, match=rf"^target must have shape \(4,\).* got \({got}"):
        loss(inputs.student, inputs.teacher, torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize("loss", LOSSES)
def test_logits_of_images_with_the_classes_second_are_refused(loss: Any) -> None:
    """This is the layout of a convolution's output; the error says what to do."""
    logits, target = torch.zeros(2, 5, 4, 6), torch.zeros(2, 4, 6, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"^target must have shape \(2, 5, 4\).*; classes come last: .*movedim\(1, -1\)$"):
        loss(logits, logits, target)
    with pytest.raises(ValueError, match=r"^teacher_logits must have .*; classes come last: .*movedim\(1, -1\)$"):
        loss(logits, logits.movedim(1, -1), target)
    assert loss(logits.movedim(1, -1), logits.movedim(1, -1), target).isfinite()


def test_an_error_about_two_dimensional_logits_has_no_advice_about_images(inputs: Inputs) -> None:
    with pytest.raises(ValueError, match=r"got \(3,\)$"):
        bilateral_loss(inputs.student, inputs.teacher, inputs.target[:3])


def test_flattened_labels_of_unflattened_logits_are_refused() -> None:
    logits = torch.zeros(2, 5, 3)
    with pytest.raises(ValueError, match=r"^target must have shape \(2, 5\).* got \(10,\)"):
        bilateral_loss(logits, logits, torch.zeros(10, dtype=torch.int64))


@pytest.mark.parametrize("wrong", [3, -1, 1000, -99])
@pytest.mark.parametrize("kind", LABELLED_KINDS)
def test_a_label_that_names_no_class_is_refused(kind: str, wrong: int, inputs: Inputs, backend: str) -> None:
    inputs.target[0], inputs.target[2] = -100, wrong
    with pytest.raises(ValueError, match=rf"^target must be in \[0, 2\] or ignore_index \(-100\), got {wrong}$"):
        call(kind, inputs, backend=backend)


@pytest.mark.parametrize("kind", LABELLED_KINDS)
def test_the_default_ignore_index_is_refused_as_a_label_where_another_is_set(kind: str, inputs: Inputs) -> None:
    inputs.target[2] = -100
    with pytest.raises(ValueError, match=r"^target must be in \[0, 2\] or ignore_index \(7\), got -100$"):
        call(kind, inputs, ignore_index=7)


def test_a_wrong_narrow_label_is_not_confused_with_an_ignore_index_it_cannot_hold(inputs: Inputs) -> None:
    # -1 and 255 are the same byte.
    with pytest.raises(ValueError, match=r"^target must be in \[0, 2\] or ignore_index \(255\), got -1$"):
        bilateral_loss(inputs.student, inputs.teacher, torch.tensor([0, -1, 2, 1], dtype=torch.int8), ignore_index=255)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["temperature", "contrast_temperature"])
@pytest.mark.parametrize(("value", "error", "got"), BAD_NUMBERS)
def test_temperatures_that_are_not_finite_numbers_are_refused(
    loss: Any, name: str, value: Any, error: type[Exception], got: str, inputs: Inputs
) -> None:
    name = named_for(loss, name)
    with pytest.raises(error, match=rf"^{name} must be .*{got}"):
        loss(*inputs, **{name: value})


@pytest.mark.parametrize("name", ["class_wise_weight", "sample_wise_weight"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("value", "error", "got"), BAD_NUMBERS)
def test_weights_that_are_not_finite_numbers_are_refused(
    loss: Any, name: str, value: Any, error: type[Exception], got: str, inputs: Inputs
) -> None:
    with pytest.raises(error, match=rf"^{name} must be .*{got}"):
        loss(*inputs, **{name: value})


@pytest.mark.parametrize("name", ["kd_temperature", "ce_weight", "kd_weight", "bilateral_weight"])
@pytest.mark.parametrize(("value", "error", "got"), BAD_NUMBERS)
def test_options_of_bickd_loss_that_are_not_finite_numbers_are_refused(
    name: str, value: Any, error: type[Exception], got: str, inputs: Inputs
) -> None:
    with pytest.raises(error, match=rf"^{name} must be .*{got}"):
        bickd_loss(*inputs, **{name: value})


@pytest.mark.parametrize("value", [0, 0.0, -2.5])
@pytest.mark.parametrize("name", ["bilateral_temperature", "kd_temperature"])
def test_a_temperature_that_is_not_positive_is_refused(name: str, value: float, inputs: Inputs) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be positive, got {float(value)}"):
        bickd_loss(*inputs, **{name: value})


@pytest.mark.parametrize("value", [0.0199, 0.0, -0.2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_contrast_temperature_that_would_overflow_is_refused(kind: str, value: float, inputs: Inputs) -> None:
    with pytest.raises(ValueError, match=rf"^contrast_temperature must be >= 0\.02, got {value}"):
        call(kind, inputs, contrast_temperature=value)
    assert call(kind, inputs, contrast_temperature=0.02).isfinite()


@pytest.mark.parametrize(("value", "allowed"), [(9e-7, ">= 1e-06"), (1.1e6, "<= 1e[+]06"), (1e300, "<= 1e[+]06")])
@pytest.mark.parametrize("name", ["bilateral_temperature", "kd_temperature"])
def test_a_temperature_that_would_leave_the_range_of_float32_is_refused(
    name: str, value: float, allowed: str, inputs: Inputs
) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be {allowed}, got "):
        bickd_loss(*inputs, **{name: value})


@pytest.mark.parametrize("name", ["ce_weight", "kd_weight", "bilateral_weight", "class_wise_weight", "sample_wise_weight"])
@pytest.mark.parametrize("value", [1.1e12, -1e300])
def test_a_weight_that_would_leave_the_range_of_float32_is_refused(name: str, value: float, inputs: Inputs) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be in \[-1e[+]12, 1e[+]12\], got "):
        bickd_loss(*inputs, **{name: value})


def test_the_largest_weights_and_the_extreme_temperatures_stay_within_the_range_of_float32(inputs: Inputs) -> None:
    single = Inputs(inputs.student.float().requires_grad_(), inputs.teacher.float(), inputs.target)
    largest = dict.fromkeys(("ce_weight", "kd_weight", "bilateral_weight", "class_wise_weight", "sample_wise_weight"), 1e12)
    for temperature in (1e-6, 1e6):
        loss = bickd_loss(*single, bilateral_temperature=temperature, kd_temperature=temperature, **largest)
        assert loss.isfinite()
        assert torch.autograd.grad(loss, single.student)[0].isfinite().all()


@pytest.mark.parametrize("name", ["temperature", "contrast_temperature", "class_wise_weight"])
@pytest.mark.parametrize("loss", LOSSES)
def test_an_integer_that_no_float_can_hold_is_refused(loss: Any, name: str, inputs: Inputs) -> None:
    name = named_for(loss, name)
    with pytest.raises(ValueError, match=rf"^{name} must be finite as a float, got an integer out of range"):
        loss(*inputs, **{name: 10**400})


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1])
@pytest.mark.parametrize("loss", LOSSES)
def test_an_ignore_index_of_more_than_64_bits_is_refused(loss: Any, value: int, inputs: Inputs) -> None:
    with pytest.raises(ValueError, match=r"^ignore_index must be a 64-bit integer"):
        loss(*inputs, ignore_index=value)


@pytest.mark.parametrize("name", ["student", "teacher", "target"])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_tensor_that_is_not_dense_is_refused(loss: Any, name: str, inputs: Inputs) -> None:
    sparse = inputs._replace(**{name: getattr(inputs, name).to_sparse()})
    argument = name if name == "target" else f"{name}_logits"
    with pytest.raises(
        TypeError, match=rf"^{argument} must be a dense tensor \(layout torch\.strided\), got torch\.sparse_coo"
    ):
        loss(*sparse)


@pytest.mark.parametrize("value", [1, np.float32(1), np.float64(1), np.int64(1)])
def test_python_and_numpy_numbers_of_any_real_type_are_accepted(value: Any, inputs: Inputs) -> None:
    loss = bickd_loss(*inputs, bilateral_temperature=value, kd_weight=value)
    assert torch.equal(loss, bickd_loss(*inputs, bilateral_temperature=1.0, kd_weight=1.0))


@pytest.mark.parametrize(("value", "got"), [(1.0, "float"), (True, "bool"), ("0", "str"), (None, "NoneType")])
@pytest.mark.parametrize("loss", LOSSES)
def test_an_ignore_index_that_is_not_an_integer_is_refused(loss: Any, value: Any, got: str, inputs: Inputs) -> None:
    with pytest.raises(TypeError, match=rf"^ignore_index must be an int, got {got}"):
        loss(*inputs, ignore_index=value)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_group_that_is_not_a_process_group_is_refused(loss: Any, inputs: Inputs) -> None:
    with pytest.raises(TypeError, match=r"^group must be a torch\.distributed\.ProcessGroup or None, got object"):
        loss(*inputs, group=object())


@pytest.mark.parametrize("loss", LOSSES)
def test_a_group_without_this_process_is_refused(loss: Any, inputs: Inputs) -> None:
    with pytest.raises(ValueError, match=r"^group must include the calling process"):
        loss(*inputs, group=torch.distributed.GroupMember.NON_GROUP_MEMBER)


def test_bickd_loss_needs_a_target(inputs: Inputs) -> None:
    with pytest.raises(TypeError, match=r"^target must be a torch\.Tensor, got None"):
        bickd_loss(inputs.student, inputs.teacher, None)


@pytest.mark.parametrize("loss", LOSSES)
def test_options_are_keyword_only_and_a_misspelt_one_is_named(loss: Any, inputs: Inputs) -> None:
    with pytest.raises(TypeError, match="positional"):
        loss(*inputs, 2.0)
    with pytest.raises(TypeError, match="temprature"):
        loss(*inputs, temprature=2.0)


def test_the_arguments_of_an_empty_batch_are_checked_too() -> None:
    empty = torch.zeros(0, 3)
    with pytest.raises(ValueError, match=r"^temperature must be positive, got -1\.0"):
        bilateral_loss(empty, empty, temperature=-1.0)
    with pytest.raises(ValueError, match=r"^target must have shape \(0,\).* got \(1,\)"):
        bilateral_loss(empty, empty, torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"^backend must be one of .* got 'cuda'"):
        bilateral_loss(empty, empty, backend="cuda")
