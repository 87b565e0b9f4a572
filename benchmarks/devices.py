"""The GPUs of the clock model: rates, latencies, and the resources that programs share on one multiprocessor."""

from dataclasses import dataclass

from benchmarks.clock_model.instructions import AMPERE, HOPPER, Rates


@dataclass(frozen=True)
class Multiprocessor:
    """The resources that programs on one multiprocessor share.

    The defaults hold for compute capabilities 8.0 and 9.0: "Technical Specifications per Compute Capability" in the CUDA C++
    Programming Guide.
    """

    shared_bytes: int
    registers: int = 64 * 1024
    warps: int = 64
    programs: int = 32


@dataclass(frozen=True)
class Device:
    """A GPU.

    Attributes:
        name: as shown in tables.
        clock: maximum clock rate in Hz, which a GPU without other load reaches.
        bandwidth: memory bandwidth in bytes per second.
        memory_latency, second_cache_latency: load latency in clocks.
        second_cache_bytes: capacity of the L2 cache.
        multiprocessors: their number.
        multiprocessor: the resources of one of them.
        rates: throughput of its units.
    """

    name: str
    clock: float
    bandwidth: float
    memory_latency: int
    second_cache_latency: int
    second_cache_bytes: int
    multiprocessors: int
    multiprocessor: Multiprocessor
    rates: Rates


DEVICES = (
    # NVIDIA A100 datasheet, column "80GB SXM": 2,039 GB/s; A100 whitepaper: 108 multiprocessors, 40 MB, 1410 MHz.
    Device(
        name="A100",
        clock=1.41e9,
        bandwidth=2.039e12,
        memory_latency=466,
        second_cache_latency=262,
        second_cache_bytes=40 * 10**6,
        multiprocessors=108,
        multiprocessor=Multiprocessor(164 * 1024),
        rates=AMPERE,
    ),
    # NVIDIA H200 datasheet: 4.8 TB/s; H100 whitepaper: 132 multiprocessors, 50 MB. nvidia-smi: 1980 MHz at most.
    # An H100 SXM differs in its memory, 3.35 TB/s. 479 clocks to it at 1755 MHz are 540 at 1980.
    Device(
        name="H200",
        clock=1.98e9,
        bandwidth=4.8e12,
        memory_latency=540,
        second_cache_latency=265,
        second_cache_bytes=50 * 10**6,
        multiprocessors=132,
        multiprocessor=Multiprocessor(228 * 1024),
        rates=HOPPER,
    ),
)
