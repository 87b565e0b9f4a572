"""The loss over the batches of several processes is that of one process with all samples."""

from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from cases import (
    KINDS,
    ROUNDING,
    Inputs,
    as_double,
    call,
    make_inputs,
    network,
    own_part,
    relative_error,
    settings_of,
    term_rounding,
    with_absences,
)
from together import together
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from bickd_kernels import bickd_loss
from bickd_kernels.backends.contract import Batch
from bickd_kernels.backends.torch import contrast
from bickd_kernels.processes import exchange, summed_batch
from bickd_kernels.processes.exchange import Ranks

RANKS = (2, 4)

SPLITS = {
    "even": {2: (6, 6), 4: (3, 3, 3, 3)},
    "uneven": {2: (7, 5), 4: (5, 1, 4, 2)},
    "with an empty slice": {2: (0, 12), 4: (5, 0, 7, 0)},
}
SAMPLES = 12


class Case(NamedTuple):
    """A call; ``split`` says how many samples each rank has."""

    kind: str
    classes: int
    split: str
    absences: bool = False
    dtype: torch.dtype = torch.float64
    options: tuple[tuple[str, Any], ...] = ()

    def inputs(self) -> Inputs:
        inputs = make_inputs(SAMPLES, self.classes, dtype=self.dtype)
        if not self.absences:
            return inputs
        if self.kind != "bilateral_unlabelled":
            return with_absences(inputs)
        inputs.student[:, 0] = -torch.inf
        inputs.teacher[:, 2] = -torch.inf
        return inputs


# Without the sample side, M of 3 classes is summed over the ranks, and M of 19 classes is computed from gathered logits.
CASES = [Case(kind, classes, split) for kind in KINDS for classes in (1, 3, 19) for split in SPLITS]
CASES += [Case(kind, classes, "uneven", absences=True) for kind in KINDS for classes in (5, 19)]
CASES += [
    Case("bickd", classes, split, options=(option,))
    for classes in (3, 19)
    for split in ("uneven", "with an empty slice")
    for option in (("class_wise_weight", 0.0), ("sample_wise_weight", 0.0), ("bilateral_weight", 0.0), ("temperature", 0.7),
                   ("contrast_temperature", 0.02), ("ce_weight", 0.0), ("backend", "reference"), ("positives", "sample"),
                   ("label_smoothing", 0.1), ("similarity", "correlation"), ("compare_ranks", True))
]  # fmt: skip
CASES += [
    Case(kind, classes, "uneven", absences=absences, options=(("sample_wise_weight", 0.0),))
    for kind in KINDS for classes in (3, 5) for absences in (False, True) if classes > 3 or not absences
]  # fmt: skip
CASES += [
    Case(kind, 5, split, absences=absences, options=(("sample_wise_weight", 0.0), ("similarity", "correlation")))
    for kind in KINDS for split, absences in (("uneven", True), ("with an empty slice", False))
]  # fmt: skip
CASES += [Case("bickd", classes, "even", options=(("compare_ranks", False),)) for classes in (3, 19)]
NARROW_CASES = [Case("bickd", 19, "uneven", dtype=dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)]


class Outcome(NamedTuple):
    loss: Tensor
    terms: tuple[Tensor, ...]
    gradient: Tensor


def outcome(case: Case, inputs: Inputs, return_terms: bool = True, **options: Any) -> Outcome:
    """Calls the loss and backward. ``return_terms`` also computes sides of weight 0, which changes what ranks exchange."""
    student = inputs.student.clone().requires_grad_()
    options = {**dict(case.options), **options}
    result = call(case.kind, inputs._replace(student=student), return_terms=return_terms, **options)
    loss, terms = result if return_terms else (result, ())
    loss.backward()
    assert student.grad is not None
    return Outcome(loss.detach(), tuple(terms), student.grad)


class Results(NamedTuple):
    """The results of one rank."""

    cases: list[Outcome]
    without_terms: list[Outcome]
    in_panels: list[Outcome]
    parameters: dict[str, list[Tensor]]
    messages: dict[str, list[int]]
    without_gradient: Outcome
    nothing_left: dict[str, Outcome]
    with_nan: Tensor
    inputs_unchanged: bool
    compiled: Outcome


def work(rank: int) -> Results:
    return Results(
        [compute(case, rank) for case in (*CASES, *NARROW_CASES)],
        [compute(case, rank, return_terms=False) for case in CASES],
        in_panels(rank),
        {split: parameter_gradients(rank, split) for split in SPLITS},
        {name: messages(rank, **shape) for name, shape in MESSAGES.items()},
        where_the_first_rank_needs_no_gradient(rank),
        nothing_left(rank),
        with_a_nan_on_the_last_rank(rank),
        unchanged(rank),
        compiled(rank),
    )


@pytest.fixture(scope="module", params=RANKS)
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Results]:
    """By rank."""
    return together(request.param, work, folder=tmp_path_factory.mktemp("ranks"))


def compute(case: Case, rank: int, return_terms: bool = True) -> Outcome:
    rows = SPLITS[case.split][dist.get_world_size()]
    return outcome(case, own_part(case.inputs(), rows, rank), return_terms, group=dist.group.WORLD)


def assert_is_reference(case: Case, by_rank: list[Outcome]) -> None:
    expected = outcome(case, case.inputs(), return_terms=bool(by_rank[0].terms), backend="reference")
    rounding = term_rounding(contrast_temperature=dict(case.options).get("contrast_temperature", 0.2))
    for result in by_rank:
        # Equal bits: every rank has the same sums over the ranks.
        assert torch.equal(result.loss, by_rank[0].loss)
        torch.testing.assert_close((result.loss, *result.terms), (expected.loss, *expected.terms), rtol=1e-10, atol=rounding)
    gradient = torch.cat([result.gradient for result in by_rank]) / len(by_rank)
    # With one class, losses and gradients are 0, so their errors cannot be relative to them.
    assert (gradient - expected.gradient).abs().max() <= 1e-10 * expected.gradient.abs().max() + 1e-14


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda index: "-".join(map(str, CASES[index])))
def test_the_loss_matches_the_reference_of_all_samples_in_one_process(results: list[Results], index: int) -> None:
    assert_is_reference(CASES[index], [result.cases[index] for result in results])
    assert_is_reference(CASES[index], [result.without_terms[index] for result in results])


@pytest.mark.parametrize("index", range(len(NARROW_CASES)), ids=lambda index: str(NARROW_CASES[index].dtype))
def test_the_loss_is_as_accurate_as_the_reference_in_float32(results: list[Results], index: int) -> None:
    case = NARROW_CASES[index]
    by_rank = [result.cases[len(CASES) + index] for result in results]
    truth = outcome(case, as_double(case.inputs()), backend="reference")
    widened = Inputs(case.inputs().student.float(), case.inputs().teacher.float(), case.inputs().target)
    eager = outcome(case, widened, backend="reference")
    gradient = torch.cat([result.gradient for result in by_rank])
    assert gradient.dtype == case.dtype
    assert {result.loss.dtype for result in by_rank} == {torch.float32}
    # The floors are one rounding of the result; a number of ranks that is a power of two scales the gradient exactly.
    assert relative_error(by_rank[0].loss, truth.loss) <= 2 * relative_error(eager.loss, truth.loss) + 1e-7
    floor = max(ROUNDING[case.dtype], 1e-7)
    error = relative_error(gradient.double() / len(by_rank), truth.gradient)
    assert error <= 2 * relative_error(eager.gradient, truth.gradient) + floor


CASES_IN_PANELS = [case for case in CASES if case.classes == 19 and not case.options]


def in_panels(rank: int) -> list[Outcome]:
    """Some cases with panels of two rows, one of which is kept."""
    kept = {name: getattr(contrast, name) for name in ("PANEL_BYTES", "MIN_PANEL_ROWS", "SIMILARITY_BUDGET_BYTES")}
    contrast.PANEL_BYTES, contrast.MIN_PANEL_ROWS, contrast.SIMILARITY_BUDGET_BYTES = 1, 2, 2 * 19 * 8
    try:
        return [compute(case, rank) for case in CASES_IN_PANELS]
    finally:
        for name, value in kept.items():
            setattr(contrast, name, value)


def test_panels_do_not_change_the_result(results: list[Results]) -> None:
    for index, case in enumerate(CASES_IN_PANELS):
        assert_is_reference(case, [result.in_panels[index] for result in results])


def parameter_gradients(rank: int, split: str) -> list[Tensor]:
    part = own_part(make_inputs(SAMPLES, 7), SPLITS[split][dist.get_world_size()], rank)
    model = DistributedDataParallel(network(7, 11).double())
    bickd_loss(model(part.student), part.teacher, part.target, group=dist.group.WORLD).backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("split", SPLITS)
def test_data_parallel_training_has_the_gradient_of_one_process(results: list[Results], split: str) -> None:
    inputs = make_inputs(SAMPLES, 7)
    alone = network(7, 11).double()
    bickd_loss(alone(inputs.student), inputs.teacher, inputs.target, backend="reference").backward()
    for result in results:
        for gradient, parameter in zip(result.parameters[split], alone.parameters(), strict=True):
            assert parameter.grad is not None
            assert relative_error(gradient, parameter.grad) < 1e-10


def where_the_first_rank_needs_no_gradient(rank: int) -> Outcome:
    case = Case("bickd", 19, "even")
    if rank > 0:
        return compute(case, rank)
    part = own_part(case.inputs(), SPLITS["even"][dist.get_world_size()], 0)
    with torch.no_grad():
        loss, terms = bickd_loss(*part, return_terms=True, group=dist.group.WORLD)
    return Outcome(loss, tuple(terms), torch.empty(0))


def test_a_rank_without_a_gradient_contributes_to_those_of_the_others(results: list[Results]) -> None:
    index = CASES.index(Case("bickd", 19, "even"))
    for result in results[1:]:
        torch.testing.assert_close(result.without_gradient, result.cases[index], rtol=1e-12, atol=1e-15)
    assert torch.equal(results[0].without_gradient.loss, results[1].without_gradient.loss)


def nothing_left(rank: int) -> dict[str, Outcome]:
    """Losses of batches in which no rank has a sample, or every sample is ignored."""
    ignored = make_inputs(3, 7)
    ignored.target.fill_(-100)
    batches = {"every sample ignored": ignored, "no sample": make_inputs(0, 7)}
    return {name: outcome(Case("bickd", 7, ""), inputs, group=dist.group.WORLD) for name, inputs in batches.items()}


@pytest.mark.parametrize("name", ["every sample ignored", "no sample"])
def test_a_batch_without_valid_samples_has_loss_and_gradient_0(results: list[Results], name: str) -> None:
    for result in results:
        loss, terms, gradient = result.nothing_left[name]
        assert loss == 0
        assert all(term == 0 for term in terms)
        assert gradient.shape == (3 if name == "every sample ignored" else 0, 7)
        assert not gradient.any()


def with_a_nan_on_the_last_rank(rank: int) -> Tensor:
    """The loss where M is summed, and where the batch is gathered."""
    losses = []
    for weight in (0.0, 1.0):
        inputs = make_inputs(5, 2)
        if rank == dist.get_world_size() - 1:
            inputs.student[1, 1] = torch.nan
        losses.append(bickd_loss(*inputs, sample_wise_weight=weight, group=dist.group.WORLD))
    return torch.stack(losses)


def test_nan_on_one_rank_is_nan_on_all(results: list[Results]) -> None:
    for result in results:
        assert result.with_nan.isnan().all()


def unchanged(rank: int) -> bool:
    inputs = with_absences(make_inputs(6, 7))
    before = [tensor.clone() for tensor in inputs]
    outcome(Case("bickd", 7, ""), inputs, group=dist.group.WORLD)
    return all(torch.equal(old.nan_to_num(), new.nan_to_num()) for old, new in zip(before, inputs, strict=True))


def test_the_inputs_are_not_written_to(results: list[Results]) -> None:
    assert all(result.inputs_unchanged for result in results)


def compiled(rank: int) -> Outcome:
    """A step that is compiled as one graph, including the loss."""
    part = own_part(Case("bickd", 19, "even").inputs(), SPLITS["even"][dist.get_world_size()], rank)
    student = part.student.clone().requires_grad_()

    def step(student: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        loss, terms = bickd_loss(student * 1.0, part.teacher, part.target, return_terms=True, group=dist.group.WORLD)
        return loss * 1.0, tuple(terms)

    loss, terms = torch.compile(step, backend="aot_eager", fullgraph=True)(student)
    loss.backward()
    assert student.grad is not None
    return Outcome(loss.detach(), terms, student.grad)


def test_a_compiled_step_computes_the_same(results: list[Results]) -> None:
    index = CASES.index(Case("bickd", 19, "even"))
    for result in results:
        torch.testing.assert_close(result.compiled, result.cases[index], rtol=1e-12, atol=1e-15)


MESSAGES: dict[str, dict[str, Any]] = {
    "both sides": {"rows": 4, "classes": 24, "options": {}},
    "class side alone, few classes": {"rows": 64, "classes": 8, "options": {"sample_wise_weight": 0.0}},
    "class side alone, correlations": {
        "rows": 64,
        "classes": 8,
        "options": {"sample_wise_weight": 0.0, "similarity": "correlation"},
    },
    "class side alone, many classes": {"rows": 4, "classes": 24, "options": {"sample_wise_weight": 0.0}},
    "sample side alone": {"rows": 4, "classes": 24, "options": {"class_wise_weight": 0.0}},
    "neither side": {"rows": 4, "classes": 24, "options": {"bilateral_weight": 0.0}},
    "ranks are not compared": {"rows": 4, "classes": 24, "options": {"compare_ranks": False}},
}


def messages(rank: int, rows: int, classes: int, options: dict[str, Any]) -> list[int]:
    """The bytes of each message that a rank passes to a collective operation, in order, for bfloat16 logits."""
    sizes = []

    def noted(operation: Any, argument: int) -> Any:
        def spy(*arguments: Any, **keywords: Any) -> Any:
            message = arguments[argument]
            sizes.append(message.numel() * message.element_size())
            return operation(*arguments, **keywords)

        return spy

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange.dist, "all_reduce", noted(dist.all_reduce, 0))
        patch.setattr(exchange.dist, "all_gather", noted(dist.all_gather, 1))
        inputs = make_inputs(rows, classes, dtype=torch.bfloat16, seed=rank)
        student = inputs.student.requires_grad_()
        bickd_loss(student, inputs.teacher, inputs.target, group=dist.group.WORLD, **options).backward()
    return sizes


@pytest.mark.parametrize("name", MESSAGES)
def test_the_ranks_exchange_the_messages_that_docs_loss_md_lists(results: list[Results], name: str) -> None:
    b, classes = MESSAGES[name]["rows"], MESSAGES[name]["classes"]
    comparison, batch = 2048, b * (2 * classes + 2 * classes + 8)
    flags = 4 * (2 * classes + 1)
    maxima = totals = 4 * 2 * classes
    products = 4 * (classes**2 + 2 * classes)
    expected = {
        "both sides": [comparison, batch],
        # ce and kd are one number each.
        "class side alone, few classes": [comparison, flags, maxima, products, 4 * 2],
        "class side alone, correlations": [comparison, flags, maxima, totals, products, 4 * 2],
        "class side alone, many classes": [comparison, batch],
        "sample side alone": [comparison, batch],
        "neither side": [comparison, flags, 4 * 2],
        "ranks are not compared": [batch],
    }
    for result in results:
        assert result.messages[name] == expected[name]


def test_sums_over_samples_are_exchanged_where_they_suffice_and_are_smaller() -> None:
    ranks = Ranks(None, 0, (64,) * 8)  # type: ignore[arg-type] # no message is sent

    def moves_less(classes: int, ranks: Ranks = ranks, **options: Any) -> bool:
        logits = torch.empty(1, classes)
        return summed_batch.moves_less(ranks, Batch(logits, logits, None), settings_of("bickd", **options))

    # Twice 4 C^2 bytes against 512 rows of C float32 logits of both networks.
    assert moves_less(512, sample_wise_weight=0.0)
    assert not moves_less(513, sample_wise_weight=0.0)
    assert not moves_less(512)
    # Without either side, sums always suffice.
    assert moves_less(10**5, bilateral_weight=0.0)
    many = ranks._replace(rows=(10**6,) * 8)
    assert moves_less(4096, many, sample_wise_weight=0.0)
    assert not moves_less(4097, many, sample_wise_weight=0.0)
