"""Random calls of the losses with one wrong argument: its type, dtype, layout, shape or value."""

import math
from typing import Any, NamedTuple

import torch
from cases import Inputs
from hypothesis import strategies as st
from torch import Tensor


class Mistake(NamedTuple):
    """A call with one wrong argument, the argument's name, and the type that it got."""

    inputs: Inputs
    options: dict[str, Any]
    argument: str
    got: str


NO_NUMBERS: tuple[Any, ...] = (None, "1", b"1", True, 1j, [1.0], {}, object(), torch.tensor(1.0))
NO_TENSORS: tuple[Any, ...] = (1, 1.5, "logits", [[0.0]], (), {}, object(), torch.Tensor, torch.zeros(2, 3).numpy())
ALLOWED_NAMES: dict[str, tuple[Any, ...]] = {
    "backend": ("auto", "torch", "triton", "reference"),
    "positives": ("label", "sample", None),
    "similarity": ("cosine", "correlation"),
}
OTHER_DTYPES = (torch.bool, torch.int64, torch.uint8, torch.uint16, torch.complex64, torch.float8_e4m3fn)


def wrong_shape(shape: tuple[int, ...]) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(0, 4), max_size=4).map(tuple).filter(lambda other: other != shape)


def wrong_logits(logits: Tensor) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.sampled_from([None, *NO_TENSORS]),
        st.sampled_from(OTHER_DTYPES).map(lambda dtype: torch.zeros(logits.shape, dtype=dtype)),
        st.just(logits.to_sparse()),
        st.sampled_from([(), (3,), (*logits.shape[:-1], 0)]).map(torch.zeros),
    )


def wrong_target(target: Tensor, classes: int, ignore_index: int) -> st.SearchStrategy[Any]:
    outside = st.integers(-(2**63), 2**63 - 1).filter(lambda value: not 0 <= value < classes and value != ignore_index)
    return st.one_of(
        st.sampled_from(NO_TENSORS),
        st.sampled_from([torch.bool, torch.float16, torch.float64, torch.uint16, torch.complex64]).map(target.to),
        st.just(target.to_sparse()),
        wrong_shape(tuple(target.shape)).map(lambda shape: torch.zeros(shape, dtype=torch.int64)),
        outside.map(lambda value: target.masked_fill(torch.arange(len(target)) == len(target) // 2, value)),
    )


def wrong_number(name: str) -> st.SearchStrategy[Any]:
    if name == "ignore_index":
        return st.sampled_from([None, "0", 1.0, True, [0], object(), 2**63, -(2**63) - 1])
    if name == "label_smoothing":
        lowest, highest = 0.0, math.nextafter(1.0, 0.0)
    elif name.endswith("weight"):
        lowest, highest = -1e12, 1e12
    else:
        lowest, highest = 0.02 if name == "contrast_temperature" else 1e-6, 1e6
    next_to = st.sampled_from([math.nextafter(lowest, -math.inf), math.nextafter(highest, math.inf)])
    outside = st.floats(max_value=lowest, exclude_max=True) | st.floats(min_value=highest, exclude_min=True)
    not_finite = st.sampled_from([math.nan, math.inf, -math.inf, 10**400])
    return st.one_of(st.sampled_from(NO_NUMBERS), not_finite, next_to, outside)


@st.composite
def mistakes(draw: st.DrawFn, kind: str) -> Mistake:
    """A call of ``bilateral_loss`` or ``bickd_loss`` with one wrong argument."""
    samples, classes = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    ignore_index = draw(st.sampled_from([-100, 0, 255]))
    inputs = Inputs(torch.zeros(samples, classes), torch.zeros(samples, classes), torch.zeros(samples, dtype=torch.int64))
    numbers = ["contrast_temperature", "class_wise_weight", "sample_wise_weight", "ignore_index"]
    if kind == "bickd":
        numbers += [
            "bilateral_temperature",
            "kd_temperature",
            "ce_weight",
            "kd_weight",
            "bilateral_weight",
            "label_smoothing",
        ]
    else:
        numbers.append("temperature")
    others = ["student_logits", "teacher_logits", "target", "backend", "positives", "similarity"]
    argument = draw(st.sampled_from([*others, *numbers]))
    options: dict[str, Any] = {"ignore_index": ignore_index}
    if argument == "target":
        got = draw(wrong_target(inputs.target, classes, ignore_index))
        return Mistake(inputs._replace(target=got), options, argument, type(got).__name__)
    if argument.endswith("logits"):
        side = argument.removesuffix("_logits")
        shapes = wrong_shape((samples, classes)).map(torch.zeros)
        # Where two shapes differ, the error names the teacher's logits.
        got = draw(wrong_logits(inputs.student) | shapes if side == "teacher" else wrong_logits(inputs.student))
        return Mistake(inputs._replace(**{side: got}), options, argument, type(got).__name__)
    if argument in ALLOWED_NAMES:
        names = st.text() | st.none() | st.integers()
        got = draw(names.filter(lambda name: name not in ALLOWED_NAMES[argument]))
    else:
        got = draw(wrong_number(argument))
    return Mistake(inputs, {**options, argument: got}, argument, type(got).__name__)
