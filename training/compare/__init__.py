"""Comparison of distillation methods under one protocol: ``python -m training.compare``."""
