"""Reproducible measurements of what the loss costs; ``docs/benchmarks.md`` says how each figure is measured.

cases, providers, timing, memory, work, machine, fitting, results      what is measured, and how
measure, scaling, step_share, report, plots, __main__                  make bench
test_bilateral_loss                                                    the same cases for pytest-benchmark
checks, limits.yaml, instructions, regressions                         make bench-check
clock_model, devices, occupancy, kernel_traffic, dispatched, forecast  estimates of GPU time, without a GPU
gpu_check/                                                             make gpu-check
"""
