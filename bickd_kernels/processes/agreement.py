"""Before any tensor moves, the ranks of a group exchange what each is about to compute.

A call that is wrong on one rank, or differs between ranks, is thus an immediate error on every rank. Without this, the other
ranks would wait for a message that never comes, or misread one of another size. The exchange runs between the hosts, and no
host waits for its device. The group's timeout detects a rank that does not call at all.
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
"""The fixed length of every message: one collective then suffices, without exchanging lengths first."""

_ERROR_CHARACTERS = 300

_host_backends: WeakKeyDictionary[ProcessGroup, Any] = WeakKeyDictionary()


def agree(group: ProcessGroup, *, rows: int, call: dict[str, Any]) -> tuple[int, ...]:
    """Checks that all ranks make the same call; returns how many samples each rank holds.

    Args:
        group: the processes.
        rows: the number of this rank's samples.
        call: what must be the same on every rank, by name; JSON values.

    Raises:
        RuntimeError: another rank failed its own checks, or did not call.
        ValueError: ranks differ in ``call``.
    """
    told = _tell(group, {"rows": rows, "call": call})
    for rank, message in enumerate(told):
        if "error" in message:
            raise RuntimeError(f"rank {rank} of the group cannot compute its part of the loss: {message['error']}")
    # The name of the loss comes first, because the two losses have different option names.
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
    """Reports an exception in the block to the other ranks, which wait in ``agree``, and re-raises it."""
    try:
        yield
    except Exception as error:
        if isinstance(group, ProcessGroup) and dist.get_world_size(group) > 1:
            # The error itself matters more than a failure to reach another rank.
            with contextlib.suppress(RuntimeError):
                _tell(group, {"error": f"{type(error).__name__}: {error}"[:_ERROR_CHARACTERS]})
        raise


def _tell(group: ProcessGroup, answer: dict[str, Any]) -> list[dict[str, Any]]:
    """Sends this rank's message; returns the messages of all ranks."""
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
    # An NCCL-only group has no backend for host tensors. Not dist.new_group: in PyTorch up to 2.11 it hangs if the ranks
    # belong to different numbers of groups.
    if group not in _host_backends:
        default_store = dist.distributed_c10d._get_default_store()
        store = dist.PrefixStore(f"bickd_kernels/{group.group_name}", default_store)  # type: ignore[attr-defined]
        _host_backends[group] = dist.ProcessGroupGloo(store, dist.get_rank(group), dist.get_world_size(group))
    _host_backends[group].allgather([messages], [own]).wait()
