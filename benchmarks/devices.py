"""The GPUs of the forecast: rates from the vendor's datasheets, and what programs share on a multiprocessor."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Multiprocessor:
    """What the programs on one multiprocessor share.

    The defaults hold for compute capabilities 8.0, 9.0 and 10.0: "Technical Specifications per Compute Capability" in the
    CUDA C++ Programming Guide. Columns of tensor memory, which only 10.0 has, are from the PTX ISA (``tcgen05.alloc``).
    """

    shared_bytes: int
    tensor_columns: int = 0
    registers: int = 64 * 1024
    warps: int = 64
    programs: int = 32


@dataclass(frozen=True)
class Device:
    """A GPU.

    Attributes:
        name: as tables have it.
        cuda_name: what ``torch.cuda.get_device_name`` calls it.
        target: what kernels are compiled for.
        bandwidth: bytes a second of its memory.
        float16_peak: flops a second of dense products of float16 or bfloat16 matrices, accumulated in float32.
        float32_peak: flops a second in float32 without tensor cores.
        multiprocessors: how many there are.
        multiprocessor: one of them.
    """

    name: str
    cuda_name: str
    target: str
    bandwidth: float
    float16_peak: float
    float32_peak: float
    multiprocessors: int
    multiprocessor: Multiprocessor


DEVICES = (
    # NVIDIA A100 datasheet, column "80GB SXM": 2,039 GB/s, 312 and 19.5 Tflop/s; A100 whitepaper: 108 multiprocessors.
    Device("A100 SXM 80 GB", "NVIDIA A100-SXM4-80GB", "sm_80", 2.039e12, 312e12, 19.5e12, 108, Multiprocessor(164 * 1024)),
    # NVIDIA H100 datasheet, column "H100 SXM": 3.35 TB/s, 1,979 Tflop/s with sparsity, which is twice the dense rate, and
    # 67 Tflop/s; H100 whitepaper: 132 multiprocessors.
    Device("H100 SXM", "NVIDIA H100 80GB HBM3", "sm_90", 3.35e12, 989.5e12, 67e12, 132, Multiprocessor(228 * 1024)),
    # NVIDIA Blackwell datasheet, column "HGX B200": 4.5 Pflop/s with sparsity and 75 Tflop/s. It gives a GPU 7.7 TB/s, the
    # datasheet of DGX B200 64 TB/s for eight: the larger, as befits a floor. 148 multiprocessors are what CUDA reports.
    Device("B200", "NVIDIA B200", "sm_100", 8.0e12, 2250e12, 75e12, 148, Multiprocessor(228 * 1024, tensor_columns=512)),
)


def known_device(cuda_name: str) -> Device | None:
    """The GPU that ``torch.cuda.get_device_name`` calls this; another memory, form or partition of it is another GPU."""
    return next((device for device in DEVICES if device.cuda_name == cuda_name), None)
