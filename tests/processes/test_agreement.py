"""A difference between ranks, or a mistake on one, is an error on all of them, and no rank waits forever."""

import copy
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from cases import make_inputs
from together import together
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from bickd_kernels import BicKDLoss, bickd_loss, bilateral_loss
from bickd_kernels.processes import agreement

SECONDS = 2
"""The time limit of the group in which one rank does not call."""

DIFFERENCES: dict[str, tuple[dict[str, Any], str]] = {
    "temperature": (
        {"bilateral_temperature": 3.0},
        "bilateral_temperature must be the same .*, got 2.0 on rank 0 and 3.0 on rank 1",
    ),
    "positives": ({"positives": "sample"}, "positives must be the same .*, got None on rank 0 and sample on rank 1"),
    "weight": ({"kd_weight": 0.5}, "kd_weight must be the same .*, got 0.9 on rank 0 and 0.5 on rank 1"),
    "classes": ({"classes": 6}, "the number of classes must be the same .*, got 5 on rank 0 and 6 on rank 1"),
    "student's dtype": (
        {"student": torch.float64},
        r"the dtype of student_logits must be .*, got torch\.float32 on rank 0 and torch\.float64 on rank 1",
    ),
    "teacher's dtype": (
        {"teacher": torch.float16},
        r"the dtype of teacher_logits must be .*, got torch\.float32 on rank 0 and torch\.float16 on rank 1",
    ),
    "backend": ({"backend": "reference"}, "backend must be the same .*, got torch on rank 0 and reference on rank 1"),
    "function": ({"loss": bilateral_loss}, "the loss must be .*, got bickd_loss on rank 0 and bilateral_loss on rank 1"),
    "terms": (
        {"ce_weight": 0.0, "return_terms": True},
        "the number of terms must be the same .*, got 3 on rank 0 and 4 on rank 1",
    ),
    "targets": (
        {"loss": lambda x, y, target, **options: bilateral_loss(x, y, **options)},
        "target must be the same .*, got a tensor of torch.int64 on rank 0 and None on rank 1",
    ),
}
"""By name: what rank 1 does differently, and the error on both ranks."""

MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "number": ({"kd_temperature": -1.0}, ValueError, "kd_temperature must be positive, got -1.0"),
    "type": ({"kd_weight": "0.9"}, TypeError, "kd_weight must be a Python number, got str"),
    "target": ({"target": 17}, ValueError, r"target must be in \[0, 4\] .*, got 17"),
    "dtype": ({"student": torch.int64}, TypeError, r"student_logits must be float16, .*, got torch\.int64"),
    "kernels": ({"backend": "triton"}, ValueError, 'backend "triton" needs logits on a GPU, got cpu'),
}


def attempt(
    loss: Callable[..., Any] = bickd_loss,
    classes: int = 5,
    student: torch.dtype = torch.float32,
    teacher: torch.dtype = torch.float32,
    target: int = 0,
    **options: Any,
) -> Exception | None:
    inputs = make_inputs(3, classes)
    targets = torch.full((3,), target)
    try:
        loss(inputs.student.to(student), inputs.teacher.to(teacher), targets, group=dist.group.WORLD, **options)
    except Exception as error:
        return error
    return None


def attempts(rank: int) -> dict[str, Exception | None]:
    """What this rank raised, by name; after each, a call that should succeed."""
    raised: dict[str, Exception | None] = {}
    usual = {"targets": {"loss": bilateral_loss}, "terms": {"ce_weight": 0.0}}
    for name, (differently, *_) in (*DIFFERENCES.items(), *MISTAKES.items()):
        raised[name] = attempt(**(differently if rank == 1 else usual.get(name, {})))
        raised[f"after {name}"] = attempt()
    return raised


@pytest.fixture(scope="module")
def raised(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Exception | None]]:
    """By rank."""
    return together(2, attempts, folder=tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", DIFFERENCES)
def test_ranks_that_differ_are_an_error_on_every_rank(raised: list[dict[str, Exception | None]], name: str) -> None:
    for by_name in raised:
        with pytest.raises(ValueError, match=DIFFERENCES[name][1]):
            raise by_name[name] or AssertionError("no error")


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_on_one_rank_is_reported_to_the_others(raised: list[dict[str, Exception | None]], name: str) -> None:
    _, kind, message = MISTAKES[name]
    with pytest.raises(kind, match=f"^{message}"):
        raise raised[1][name] or AssertionError("no error")
    with pytest.raises(RuntimeError, match=rf"^rank 1 of the group cannot .*: {kind.__name__}: {message}"):
        raise raised[0][name] or AssertionError("no error")


def test_the_group_works_after_an_error(raised: list[dict[str, Exception | None]]) -> None:
    for by_name in raised:
        assert all(error is None for name, error in by_name.items() if name.startswith("after"))


def mistaken_alone(rank: int) -> Exception | None:
    """Rank 1 makes a mistake in a call that rank 0 never makes."""
    error = attempt(kd_weight="0.9", compare_ranks=False) if rank == 1 else None
    dist.barrier()
    return error


def test_a_mistake_is_not_reported_to_others_where_ranks_are_not_compared(tmp_path: Path) -> None:
    _, error = together(2, mistaken_alone, folder=tmp_path, seconds=60)
    with pytest.raises(TypeError, match=r"^kd_weight must be a Python number, got str"):
        raise error


def call_alone(rank: int) -> tuple[str, float]:
    group = dist.new_group([0, 1], timeout=timedelta(seconds=SECONDS))
    # The first call of a process imports the compiler; those seconds must not count as waiting.
    bickd_loss(*make_inputs(3, 5), group=dist.group.WORLD)
    start, message = time.monotonic(), ""
    if rank == 0:
        try:
            bickd_loss(*make_inputs(3, 5), group=group)
        except RuntimeError as error:
            message = str(error)
    seconds = time.monotonic() - start
    # Until rank 0 has its error, rank 1 stays and does not call.
    dist.barrier()
    return message, seconds


def test_a_rank_that_does_not_call_is_an_error_after_the_time_limit_of_the_group(tmp_path: Path) -> None:
    (message, seconds), _ = together(2, call_alone, folder=tmp_path, seconds=60)
    assert message == "not every process of the group called the loss within the group's time limit"
    # A busy machine is late. The time limit of all other messages is that of ``together``, which would have raised.
    assert seconds > SECONDS * 0.5


def given_a_distributed_tensor(rank: int) -> list[str]:
    mesh = init_device_mesh("cpu", (2,))
    inputs = make_inputs(3, 5)
    sharded = DTensor.from_local(inputs.student, mesh, [Shard(0)])
    messages = []
    for arguments in ((sharded, inputs.teacher), (inputs.student, sharded)):
        try:
            bilateral_loss(*arguments, group=dist.group.WORLD)
        except TypeError as error:
            messages.append(str(error))
    return messages


def test_a_dtensor_is_refused(tmp_path: Path) -> None:
    for student, teacher in together(2, given_a_distributed_tensor, folder=tmp_path):
        assert student.startswith("student_logits must be a plain torch.Tensor, got a DTensor; pass its to_local()")
        assert teacher.startswith("teacher_logits must be a plain torch.Tensor, got a DTensor")


def losses_of_groups(rank: int) -> dict[str, torch.Tensor]:
    """The losses of this rank's batch in groups of all ranks, of two, and of this rank alone."""
    inputs = make_inputs(3, 5, seed=rank)
    pair = dist.new_group([0, 2])
    alone = [dist.new_group([other]) for other in range(3)][rank]
    results = {
        "alone": bickd_loss(*inputs, group=alone),
        "all": bickd_loss(*inputs, group=dist.group.WORLD),
        "reference": bickd_loss(*inputs, group=dist.group.WORLD, backend="reference"),
        "module": BicKDLoss(group=dist.group.WORLD)(*inputs),
    }
    results["copy"] = copy.deepcopy(BicKDLoss(group=dist.group.WORLD))(*inputs)
    if rank in (0, 2):
        results["pair"] = bickd_loss(*inputs, group=pair)
    # NCCL cannot send host memory, so the ranks of a group with NCCL alone are compared through a Gloo group.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agreement.dist, "get_backend_config", lambda group: "cuda:nccl")
        made = []
        gloo = dist.ProcessGroupGloo
        patch.setattr(agreement.dist, "ProcessGroupGloo", lambda *a, **k: made.append(a) or gloo(*a, **k))
        results["nccl"] = bickd_loss(*inputs, group=dist.group.WORLD)
        bickd_loss(*inputs, group=dist.group.WORLD)
        results["backends made"] = torch.tensor(len(made))
    return results


def test_a_group_may_have_any_of_the_processes(tmp_path: Path) -> None:
    by_rank = together(3, losses_of_groups, folder=tmp_path)
    inputs = [make_inputs(3, 5, seed=rank) for rank in range(3)]

    def expected(*ranks: int) -> torch.Tensor:
        return bickd_loss(*(torch.cat([inputs[rank][index] for rank in ranks]) for index in range(3)))

    for rank, losses in enumerate(by_rank):
        torch.testing.assert_close(losses["alone"], expected(rank))
        for name in ("all", "reference", "module", "copy", "nccl"):
            torch.testing.assert_close(losses[name], expected(0, 1, 2))
        assert losses["backends made"] == 1
    for rank in (0, 2):
        torch.testing.assert_close(by_rank[rank]["pair"], expected(0, 2))
