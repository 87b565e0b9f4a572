"""Before a tensor moves, the processes of a group tell each other what each of them is about to compute.

So a call that is wrong on one rank, or differs between ranks, is an error on every rank, at once: without this the others
would wait for a message that never comes, or take one of another size for theirs. What is told goes between the hosts, and
no host waits for its device. A rank that does not call at all is found by the time limit of the group.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist

from bickd_kernels.processes.exchange import outlive_gloo
from bickd_kernels.processes.group import ProcessGroup

MESSAGE_BYTES = 2048
"""The length of every message: one operation then moves them, without asking for lengths first."""

_ERROR_CHARACTERS = 300

_host_backends: WeakKeyDictionary[ProcessGroup, Any] = WeakKeyDictionary()


def agree(group: ProcessGroup, *, rows: int, call: dict[str, Any]) -> tuple[int, ...]:
    """How many samples each rank holds, once all ranks are known to make the same call.

    Args:
        group: the processes.
        rows: the number of this rank's samples.
        call: by name, what has to be the same on every rank; values that JSON holds.

    Raises:
        RuntimeError: another rank failed its own checks, or does not take part.
        ValueError: ranks that differ in ``call``.
    """
    told = _tell(group, {"rows": rows, "call": call})
    for rank, message in enumerate(told):
        if "error" in message:
            raise RuntimeError(f"rank {rank} of the group cannot compute its part of the loss: {message['error']}")
    # The name of the loss comes first: the options of another one have other names.
    for name in call:
        for rank, message in enumerate(told):
            if message["call"][name] != told[0]["call"][name]:
                raise ValueError(
                    f"{name} must be the same on every rank of the group, got {told[0]['call'][name]} on rank 0 and "
                    f"{message['call'][name]} on rank {rank}"
                )
    return tuple(message["rows"] for message in told)


@contextlib.contextmanager
def failure_told_to(group: Any) -> Iterator[None]:
    """Tells the other ranks, which wait in ``agree``, of an exception in the block, and raises it."""
    try:
        yield
    except Exception as error:
        if isinstance(group, ProcessGroup) and dist.get_world_size(group) > 1:
            # The error itself matters more than that a rank could not be reached.
            with contextlib.suppress(RuntimeError):
                _tell(group, {"error": f"{type(error).__name__}: {error}"[:_ERROR_CHARACTERS]})
        raise


def _tell(group: ProcessGroup, answer: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages of all ranks."""
    text = json.dumps(answer).encode()
    own = torch.zeros(MESSAGE_BYTES, dtype=torch.uint8)
    own[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    messages = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    try:
        _gather_on_hosts(group, messages, own)
        outlive_gloo(own, *messages)
    except RuntimeError as error:
        raise RuntimeError("not every process of the group called the loss within the group's time limit") from error
    return [json.loads(bytes(message.tolist()).rstrip(b"\0")) for message in messages]


def _gather_on_hosts(group: ProcessGroup, messages: list[torch.Tensor], own: torch.Tensor) -> None:
    if "cpu:" in dist.get_backend_config(group):
        dist.all_gather(messages, own, group=group)
        return
    # A group of NCCL alone has no backend for tensors in host memory. Not dist.new_group: in PyTorch up to 2.11 it waits for
    # ever where the ranks are in different numbers of groups.
    if group not in _host_backends:
        default_store = dist.distributed_c10d._get_default_store()
        store = dist.PrefixStore(f"bickd_kernels/{group.group_name}", default_store)  # type: ignore[attr-defined]
        _host_backends[group] = dist.ProcessGroupGloo(store, dist.get_rank(group), dist.get_world_size(group))
    _host_backends[group].allgather([messages], [own]).wait()
