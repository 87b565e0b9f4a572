"""Peak memory of a call, to the byte: as accounted by PyTorch's allocator, not by the operating system.

On a CPU, the profiler reports every allocation and release, including those of compiled code. Memory that libraries allocate
outside PyTorch, such as packing buffers of a matrix product, is not included.
"""

import json
import os
import tempfile
from itertools import accumulate
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.timing import Step

# Otherwise the profiler would report its start, its end and the missing GPU for every call.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")


def peak_bytes(step: Step, device: str) -> int:
    """Peak bytes of one call beyond the memory in use before it.

    Callers first drop what an earlier call left behind, such as a gradient: a step that replaces it would be credited with
    the memory of the old one.
    """
    return _peak_on_gpu(step) if device == "cuda" else _peak_on_cpu(step)


def _peak_on_gpu(step: Step) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _peak_on_cpu(step: Step) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = [(event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]"]
    # Sorted by time only: for equal times, the order in the trace is the true one.
    changes.sort(key=lambda change: change[0])
    return max(accumulate((bytes_ for _, bytes_ in changes), initial=0))
