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
    """Runs ``function(rank, *arguments)`` in ``count`` processes and returns its results by rank.

    Raises:
        TimeoutError: a process still runs after ``seconds``; all are killed.
        torch.multiprocessing.ProcessRaisedException: a process raised an exception.
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
    # Not torch.save: results include exceptions, which are not tensors.
    (folder / f"result-{rank}").write_bytes(pickle.dumps(result))
    dist.destroy_process_group()
    # Skips the shutdown of the interpreter: PyTorch 2.11 sometimes aborts there, in any program that had a Gloo group and
    # imported its compiler.
    os._exit(0)
