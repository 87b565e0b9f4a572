"""Phases of ``gpu_check`` that need no GPU: they work, give wrong numbers, hang, crash, or do not start."""
