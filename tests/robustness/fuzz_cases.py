"""Random calls of the losses: batches of every kind that docs/loss.md speaks of, with options over their ranges."""

import math
from typing import Any, NamedTuple

import torch
from cases import Inputs
from hypothesis import strategies as st
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
TARGET_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
LAYOUTS = ("contiguous", "transposed", "sliced", "expanded over samples", "expanded over classes")
DECORATIONS = ("constant row", "equal rows", "absent class", "single -inf", "lowest class")
POISONS = ("all -inf", "nan", "+inf")


class Case(NamedTuple):
    """A call: the loss of this name, its tensors, and its options but the backend."""

    kind: str
    inputs: Inputs
    options: dict[str, Any]

    @property
    def target(self) -> Tensor | None:
        """The targets that the call gets."""
        return None if self.kind == "bilateral_unlabelled" else self.inputs.target


def in_layout(values: Tensor, layout: str) -> Tensor:
    """Logits ``(..., C)`` in memory that is laid out so, with these values, or for an expanded layout a part of them."""
    if values.numel() == 0 or layout == "contiguous":
        return values.contiguous()
    if layout == "transposed":
        return values.movedim(-1, 0).contiguous().movedim(0, -1)
    if layout == "sliced":
        wider = torch.full((*values.shape[:-1], 3 * values.shape[-1] + 1), torch.nan, dtype=values.dtype)
        wider[..., 1::3] = values
        return wider[..., 1::3]
    if layout == "expanded over samples":
        return values.reshape(-1, values.shape[-1])[0].clone().expand(values.shape)
    return values[..., :1].clone().expand(values.shape)


def mostly(usual: st.SearchStrategy[Any], rare: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """One draw of six is rare: what makes a whole batch trivial would leave little else to see."""
    return st.sampled_from([usual] * 5 + [rare]).flatmap(lambda chosen: chosen)


@st.composite
def logits(draw: st.DrawFn, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Logits of any dtype, layout and size, decorated with what is special about rows and classes."""
    dtype = draw(st.sampled_from(DTYPES))
    limit = torch.finfo(dtype).max
    # The last two reach the limits of the dtype, which float16 has among the usual numbers.
    extreme = st.sampled_from([0.0, 1e-3, min(1e4, limit / 8), limit / 1e3, limit / 6])
    scale = draw(mostly(st.sampled_from([1.0, 5.0, 20.0, 100.0]), extreme))
    drawn = torch.randn(shape, dtype=torch.float64, generator=generator).clamp_(-5, 5)
    if draw(st.booleans()):
        # Many ties, and sums that are exact.
        drawn.round_()
    values = (drawn * scale).clamp_(-limit, limit)
    rows = values.view(-1, shape[-1])
    decorations = draw(st.lists(st.sampled_from(DECORATIONS), max_size=2))
    poisons = draw(mostly(st.just([]), st.sampled_from(POISONS).map(lambda poison: [poison])))
    for decoration in decorations + poisons if len(rows) else ():
        a, b, c = (int(torch.randint(n, (), generator=generator)) for n in (len(rows), len(rows), shape[-1]))
        if decoration == "constant row":
            rows[a] = rows[a, c].clone()
        elif decoration == "equal rows":
            rows[a] = rows[b].clone()
        elif decoration == "absent class":
            rows[:, c] = -torch.inf
        elif decoration == "lowest class":
            # How some models mask a class: finite, until it is divided by a temperature below 1.
            rows[:, c] = -limit
        elif decoration == "all -inf":
            rows[a] = -torch.inf
        else:
            rows[a, c] = {"single -inf": -torch.inf, "nan": torch.nan, "+inf": torch.inf}[decoration]
    return in_layout(values.to(dtype), draw(mostly(st.sampled_from(LAYOUTS[:3]), st.sampled_from(LAYOUTS[3:]))))


@st.composite
def targets(draw: st.DrawFn, shape: tuple[int, ...], classes: int, ignore_index: int, generator: torch.Generator) -> Tensor:
    """Targets of any integer dtype; an ``ignore_index`` that the dtype cannot hold ignores nothing."""
    dtype = draw(st.sampled_from([d for d in TARGET_DTYPES if torch.iinfo(d).max >= classes - 1]))
    values = torch.randint(classes, shape, generator=generator)
    ignored = draw(mostly(st.sampled_from(["none", "some"]), st.just("all")))
    if ignored != "none" and torch.iinfo(dtype).min <= ignore_index <= torch.iinfo(dtype).max:
        chosen = torch.rand(shape, generator=generator) < (2.0 if ignored == "all" else 0.4)
        values[chosen] = ignore_index
    values = values.to(dtype)
    return torch.stack([values, values], -1)[..., 1] if draw(st.booleans()) else values


def temperatures(smallest: float, largest: float) -> st.SearchStrategy[float]:
    """Those of practice, and the range with both of its ends."""
    drawn = st.floats(math.log10(smallest), math.log10(largest)).map(lambda power: min(max(10.0**power, smallest), largest))
    return mostly(st.floats(max(smallest, 0.3), 8.0), st.sampled_from([smallest, largest]) | drawn)


WEIGHTS = mostly(st.sampled_from([1.0, -1.0, 0.3, -2.5]), st.sampled_from([0.0, 1e-12, 1e6, -1e12, 1e12]))


@st.composite
def cases(draw: st.DrawFn, kind: str) -> Case:
    """Any call of the loss of this name that has a documented result."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    leading = tuple(
        draw(mostly(st.sampled_from([[7], [2], [3], [12], [2, 3], [1, 5, 2], [19]]), st.sampled_from([[1], [0], [2, 0, 3]])))
    )
    classes = draw(mostly(st.sampled_from([5, 2, 3, 8, 17, 23]), st.just(1)))
    ignore_index = draw(mostly(st.sampled_from([-100, -1, 255, 2**62]), st.sampled_from([0, classes - 1])))
    inputs = Inputs(
        draw(logits((*leading, classes), generator)),
        draw(logits((*leading, classes), generator)),
        draw(targets(leading, classes, ignore_index, generator)),
    )
    names = ["class_weight", "sample_weight", *(["ce_weight", "kd_weight", "bilateral_weight"] if kind == "bickd" else [])]
    options: dict[str, Any] = {name: draw(WEIGHTS) for name in names} if draw(st.booleans()) else {}
    options["temperature"] = draw(temperatures(1e-6, 1e6))
    options["contrast_temperature"] = draw(mostly(st.floats(0.02, 1.0), temperatures(0.02, 1e6)))
    if kind == "bickd":
        options["kd_temperature"] = draw(temperatures(1e-6, 1e6))
    return Case(kind, inputs, {**options, "ignore_index": ignore_index, "return_terms": draw(st.booleans())})


class Mistake(NamedTuple):
    """A call of which one argument is wrong, and what it got."""

    inputs: Inputs
    options: dict[str, Any]
    argument: str
    got: str


NO_NUMBERS: tuple[Any, ...] = (None, "1", b"1", True, 1j, [1.0], {}, object(), torch.tensor(1.0), float("nan"), float("inf"),
                               -float("inf"), 10**400)  # fmt: skip
NO_TENSORS: tuple[Any, ...] = (1, 1.5, "logits", [[0.0]], (), {}, object(), torch.Tensor, torch.zeros(2, 3).numpy())
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
    if name.endswith("weight"):
        outside = st.floats(1e12, 1e308, exclude_min=True) | st.floats(-1e308, -1e12, exclude_max=True)
    else:
        smallest = 0.02 if name == "contrast_temperature" else 1e-6
        outside = st.floats(max_value=smallest, exclude_max=True) | st.floats(min_value=1e6, exclude_min=True)
    return st.sampled_from(NO_NUMBERS) | outside


@st.composite
def mistakes(draw: st.DrawFn, kind: str) -> Mistake:
    """A call of ``bilateral_loss`` or ``bickd_loss`` with one wrong argument."""
    samples, classes = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    ignore_index = draw(st.sampled_from([-100, 0, 255]))
    inputs = Inputs(torch.zeros(samples, classes), torch.zeros(samples, classes), torch.zeros(samples, dtype=torch.int64))
    numbers = ["temperature", "contrast_temperature", "class_weight", "sample_weight", "ignore_index"]
    if kind == "bickd":
        numbers += ["kd_temperature", "ce_weight", "kd_weight", "bilateral_weight"]
    argument = draw(st.sampled_from(["student_logits", "teacher_logits", "target", "backend", *numbers]))
    options: dict[str, Any] = {"ignore_index": ignore_index}
    if argument == "target":
        got = draw(wrong_target(inputs.target, classes, ignore_index))
        return Mistake(inputs._replace(target=got), options, argument, type(got).__name__)
    if argument.endswith("logits"):
        side = argument.removesuffix("_logits")
        shapes = wrong_shape((samples, classes)).map(torch.zeros)
        # Of two shapes the teacher's is called wrong.
        got = draw(wrong_logits(inputs.student) | shapes if side == "teacher" else wrong_logits(inputs.student))
        return Mistake(inputs._replace(**{side: got}), options, argument, type(got).__name__)
    if argument == "backend":
        got = draw(
            st.text().filter(lambda name: name not in ("auto", "torch", "triton", "reference")) | st.none() | st.integers()
        )
    else:
        got = draw(wrong_number(argument))
    return Mistake(inputs, {**options, argument: got}, argument, type(got).__name__)
