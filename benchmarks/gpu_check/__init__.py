"""Checks and times the Triton backend on a GPU; needs only PyTorch and Triton.

__main__        the command
session         runs the phases in order, each in separate processes with a deadline; writes ``results.jsonl``
worker, task    what such a process does
report          ``report.md`` from the lines of ``results.jsonl``
steps           the timed batches, and how they are timed
environment, numbers, timing, kernels, graphs, probes, sweep, compiled, sanitizer, host    the phases
"""
