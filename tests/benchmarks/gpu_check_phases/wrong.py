"""A task with a wrong number, one that raises, and one that passes."""

from pathlib import Path

from benchmarks.gpu_check.task import Task


def wrong() -> dict[str, object]:
    errors = {"gradient_error": 3e-5, "gradient_tolerance": 2e-6, "loss_error": 0.0, "loss_tolerance": 1e-6}
    return {"passed": False, **errors, "repeated": False}


def failing() -> dict[str, object]:
    raise RuntimeError("no such kernel image")


def tasks(_folder: Path) -> list[Task]:
    return [Task("wrong", wrong), Task("failing", failing), Task("right", lambda: {"passed": True})]
