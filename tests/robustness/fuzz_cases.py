"""Random calls of the losses: every kind of batch in docs/loss.md, with temperatures and weights over their ranges."""

import math
from typing import Any, NamedTuple

import torch
from cases import LABELLED_KINDS, Inputs
from hypothesis import strategies as st
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
TARGET_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
LAYOUTS = ("contiguous", "transposed", "sliced", "expanded over samples", "expanded over classes")
DECORATIONS = ("constant row", "equal rows", "absent class", "single -inf", "lowest class")
POISONS = ("all -inf", "nan", "+inf")


class Case(NamedTuple):
    """A call: the kind of loss, its tensors, and its options except the backend."""

    kind: str
    inputs: Inputs
    options: dict[str, Any]

    @property
    def target(self) -> Tensor | None:
        """The targets that the call gets."""
        return None if self.kind == "bilateral_unlabelled" else self.inputs.target


def in_layout(values: Tensor, layout: str) -> Tensor:
    """Logits ``(..., C)`` in a memory layout, with these values; an expanded layout repeats a part of them."""
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
    """One draw in six is rare: values that make a whole batch trivial must not be frequent."""
    return st.sampled_from([usual] * 5 + [rare]).flatmap(lambda chosen: chosen)


@st.composite
def logits(draw: st.DrawFn, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Logits of any dtype, layout and magnitude, some with special rows and classes."""
    dtype = draw(st.sampled_from(DTYPES))
    limit = torch.finfo(dtype).max
    # The last two approach the limit of the dtype, which float16 has among the usual numbers.
    extreme = st.sampled_from([0.0, 1e-3, min(1e4, limit / 8), limit / 1e3, limit / 6])
    scale = draw(mostly(st.sampled_from([1.0, 5.0, 20.0, 100.0]), extreme))
    drawn = torch.randn(shape, dtype=torch.float64, generator=generator).clamp_(-5, 5)
    if draw(st.booleans()):
        # This gives many ties, and exact sums.
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


@st.composite
def probabilities(draw: st.DrawFn, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Class probabilities of any dtype, with zeros among them, in some rows or in all of them nothing else."""
    values = torch.rand(shape, generator=generator) * (torch.rand(shape, generator=generator) < 0.6)
    values /= values.sum(-1, keepdim=True).clamp_min(1e-6)
    ignored = draw(mostly(st.sampled_from([0.0, 0.4]), st.just(2.0)))
    values[torch.rand(shape[:-1], generator=generator) < ignored] = 0.0
    return in_layout(values.to(draw(st.sampled_from(DTYPES))), draw(st.sampled_from(LAYOUTS[:3])))


def temperatures(smallest: float, largest: float) -> st.SearchStrategy[float]:
    """Usual temperatures, and sometimes any in the range or one of its ends."""
    drawn = st.floats(math.log10(smallest), math.log10(largest)).map(lambda power: min(max(10.0**power, smallest), largest))
    return mostly(st.floats(max(smallest, 0.3), 8.0), st.sampled_from([smallest, largest]) | drawn)


WEIGHTS = mostly(st.sampled_from([1.0, -1.0, 0.3, -2.5]), st.sampled_from([0.0, 1e-12, 1e6, -1e12, 1e12]))


@st.composite
def cases(draw: st.DrawFn, kind: str) -> Case:
    """Any call of this kind that has a documented result."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    leading = tuple(
        draw(mostly(st.sampled_from([[7], [2], [3], [12], [2, 3], [1, 5, 2], [19]]), st.sampled_from([[1], [0], [2, 0, 3]])))
    )
    classes = draw(mostly(st.sampled_from([5, 2, 3, 8, 17, 23]), st.just(1)))
    ignore_index = draw(mostly(st.sampled_from([-100, -1, 255, 2**62]), st.sampled_from([0, classes - 1])))
    shape = (*leading, classes)
    labels = draw(mostly(st.just(True), st.just(False)))
    inputs = Inputs(
        draw(logits(shape, generator)),
        draw(logits(shape, generator)),
        draw(targets(leading, classes, ignore_index, generator) if labels else probabilities(shape, generator)),
    )
    names = [
        "class_wise_weight",
        "sample_wise_weight",
        *(["ce_weight", "kd_weight", "bilateral_weight"] if kind == "bickd" else []),
    ]
    options: dict[str, Any] = {name: draw(WEIGHTS) for name in names} if draw(st.booleans()) else {}
    options["temperature"] = draw(temperatures(1e-6, 1e6))
    options["contrast_temperature"] = draw(mostly(st.floats(0.02, 1.0), temperatures(0.02, 1e6)))
    options["positives"] = draw(st.sampled_from([None, "sample"] + ["label"] * (labels and kind in LABELLED_KINDS)))
    options["similarity"] = draw(st.sampled_from(["cosine", "correlation"]))
    if kind == "bickd":
        options["kd_temperature"] = draw(temperatures(1e-6, 1e6))
        options["label_smoothing"] = draw(mostly(st.just(0.0) | st.floats(0.01, 0.5), st.sampled_from([0.999, 1e-6])))
    return Case(kind, inputs, {**options, "ignore_index": ignore_index, "return_terms": draw(st.booleans())})
