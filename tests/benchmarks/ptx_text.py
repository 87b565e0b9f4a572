"""Kernels written by hand in PTX, with 32-bit registers ``%r``, 64-bit ``%rd``, 16-bit ``%rs`` and predicates ``%p``."""

from typing import Any

import torch

from benchmarks.clock_model.clock import Trace
from benchmarks.clock_model.execution import Event, execute
from benchmarks.clock_model.ptx import Kernel, parse
from benchmarks.clock_model.warps import MultiplyAdd, rounded_multiply_add

SHARED_BYTES = 8192


def kernel(body: str, threads: int = 32, parameters: tuple[str, ...] = ("u64", "u64")) -> Kernel:
    """A kernel of these instructions. At its start, ``%rd1``, ... hold its first arguments, ``%r1`` the thread's number, and
    ``%rd8`` and ``%rd9`` the addresses of the thread's 32-bit elements in the first two."""
    signature = ",\n".join(f"\t.param .{kind} test_param_{index}" for index, kind in enumerate(parameters))
    loads = "\n".join(
        f"ld.param.b{kind[1:]} %{'rd' if kind[1:] == '64' else 'r10'}{index + 1}, [test_param_{index}];"
        for index, kind in enumerate(parameters)
    )
    return parse(f"""
.visible .entry test(
{signature}
)
.reqntid {threads}
{{
	.reg .pred 	%p<20>;
	.reg .b16 	%rs<20>;
	.reg .b32 	%r<200>;
	.reg .b64 	%rd<20>;
{loads}
mov.u32 %r1, %tid.x;
mul.wide.u32 %rd7, %r1, 4;
add.s64 %rd8, %rd1, %rd7;
{"add.s64 %rd9, %rd2, %rd7;" if len(parameters) > 1 else ""}
{body}
ret;
}}
	.section	.debug_str
""")


def run(
    body: str,
    *arguments: Any,
    threads: int = 32,
    programs: int = 1,
    parameters: tuple[str, ...] = ("u64", "u64"),
    multiply_add: MultiplyAdd = rounded_multiply_add,
) -> list[Event]:
    """Executes a kernel of these instructions."""
    places = [(number, 0, 0) for number in range(programs)]
    return execute(kernel(body, threads, parameters), (programs, 1, 1), places, arguments, SHARED_BYTES, multiply_add)


def value_of(body: str, dtype: torch.dtype = torch.int32, inputs: torch.Tensor | None = None) -> torch.Tensor:
    """What 32 threads leave in ``%r2``, which first holds the thread's element of ``inputs``."""
    out = torch.zeros(32, dtype=dtype)
    source = torch.zeros(32, dtype=dtype) if inputs is None else inputs
    run(f"ld.global.b32 %r2, [%rd8];\n{body}\nst.global.b32 [%rd9], %r2;", source, out)
    return out


def trace_of(body: str, *arguments: Any, threads: int = 32) -> tuple[Kernel, Trace]:
    """A kernel, and the trace of one of its programs."""
    return kernel(body, threads), Trace(run(body, *arguments, threads=threads), 0, threads // 32)
