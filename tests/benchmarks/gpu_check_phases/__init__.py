"""Phases of ``gpu_check`` that need no GPU: they work, are wrong, hang, crash, or do not start."""
