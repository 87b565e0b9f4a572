"""Checks and times the Triton backend on a GPU; needs nothing but PyTorch and Triton.

__main__        the command
session         phases one after the other, each in processes of its own with a deadline; ``results.jsonl``
worker, task    what such a process does
report          ``report.md`` from the lines of ``results.jsonl``
steps           the batches that are timed, and how
environment, numbers, timing, kernels, graphs, probes, sweep, compiled, sanitizer, host    the phases
"""
