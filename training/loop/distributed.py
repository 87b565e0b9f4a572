"""The processes that train together under torchrun; a single process exchanges nothing."""

import os
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Processes(NamedTuple):
    """This process's ``rank`` among ``count``, and the ``local_rank`` on its machine."""

    rank: int = 0
    count: int = 1  # type: ignore[assignment] # tuples have a method of this name
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes the files and prints messages."""
        return self.rank == 0


def start(device: str) -> tuple[Processes, torch.device]:
    """Joins the process group if torchrun started this process, and chooses this process's device.

    Raises:
        ValueError: ``device`` does not exist, or names one GPU for several processes.
    """
    processes = Processes(*(int(os.environ.get(name, default)) for name, default in
                            (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))))  # fmt: skip
    chosen = _device(device, processes)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if processes.count > 1 and not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo")
    return processes, chosen


def stop() -> None:
    """Leaves the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _device(name: str, processes: Processes) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{processes.local_rank}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device must exist, got {name!r} with {torch.cuda.device_count()} GPUs")
    if device.type == "cuda" and processes.count > 1 and device.index != processes.local_rank:
        raise ValueError(f"device must be auto, cpu or cuda for several processes, got {name!r}")
    return device


def sum_over(values: Tensor) -> Tensor:
    """The sum over the processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def largest_of(values: list[int], device: torch.device) -> list[int]:
    """The element-wise maximum over the processes: what one process requests, all do."""
    if not dist.is_initialized():
        return values
    tensor = torch.tensor(values, device=device)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor.tolist()


def gather(value: Any) -> list[Any]:
    """The values of all processes, by rank, in every process."""
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def wait() -> None:
    """Waits until all processes have called it."""
    if dist.is_initialized():
        dist.barrier()


def average_statistics(model: nn.Module) -> None:
    """Averages the running statistics of batch norms over the processes, each of which saw its own samples."""
    if dist.is_initialized():
        for buffer in model.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer.div_(dist.get_world_size())
