"""The memory that a call takes at its peak, to the byte: by the account of PyTorch's allocator, not of the operating system.

On a CPU the profiler reports every allocation and release, those of compiled code too. What libraries take past PyTorch,
such as the packing buffers of a matrix product, is not in it.
"""

import json
import os
import tempfile
from itertools import accumulate
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.timing import Step

# The profiler would report its start and its end, and that there is no GPU, for every call.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")


def peak_bytes(step: Step, device: str) -> int:
    """Bytes beyond what was there before, at the peak of one call.

    What an earlier call left behind, such as a gradient, is dropped before this is called: a step that replaces it would be
    given credit for the memory of the old one.
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
    # By time alone: of several at the same time the order of the trace is the true one.
    changes.sort(key=lambda change: change[0])
    return max(accumulate((bytes_ for _, bytes_ in changes), initial=0))
