"""Runs a function in several processes that form a group."""

import os
import pickle
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing


def together(count: int, function: Callable[..., Any], *arguments: Any, folder: Path, seconds: float = 120) -> list[Any]:
    """What ``function(rank, *arguments)`` returns in each of ``count`` processes, by rank.

    Raises:
        TimeoutError: processes that still run after so many seconds; they are killed.
        torch.multiprocessing.ProcessRaisedException: what a process raised.
    """
    processes = torch.multiprocessing.spawn(
        _work, (count, function, arguments, folder, seconds), nprocs=count, join=False
    )  # fmt: skip
    assert processes is not None
    end = time.monotonic() + seconds
    try:
        while not processes.join(timeout=max(0.0, end - time.monotonic())):
            if time.monotonic() >= end:
                raise TimeoutError(f"processes still run after {seconds} s")
    finally:
        for process in processes.processes:
            process.kill()
    return [pickle.loads((folder / f"result-{rank}").read_bytes()) for rank in range(count)]


def _work(
    rank: int, count: int, function: Callable[..., Any], arguments: tuple[Any, ...], folder: Path, seconds: float
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=count, timeout=timedelta(seconds=seconds)
    )
    result = function(rank, *arguments)
    # Not by torch.save: what a process raised is among the results, and is no tensor.
    (folder / f"result-{rank}").write_bytes(pickle.dumps(result))
    dist.destroy_process_group()
    # The end of the interpreter is not what is tested. PyTorch 2.11 aborts in it at times, in any program
    # that had a Gloo group and imported its compiler.
    os._exit(0)
