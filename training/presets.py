"""The recipes of the literature by name: what they set beside the defaults of ``Config``.

``cifar``: the one that the figures for CIFAR-100 in the literature come from (Tian et al., arXiv 1910.10699).
``imagenet``: 100 epochs of ResNets at batch 256 (the same), with the methods' settings for ImageNet of Zhao et al.
(arXiv 2203.08679) and Huang et al. (arXiv 2205.10536).
"""

from typing import Any, NamedTuple


class Preset(NamedTuple):
    """Defaults of a run, and by method those of its settings that differ from its own defaults."""

    config: dict[str, Any]
    settings: dict[str, dict[str, Any]]


PRESETS = {
    "cifar": Preset(
        {
            "dataset": "cifar100",
            "student": "resnet20",
            "epochs": 240,
            "batch_size": 64,
            "learning_rate": 0.05,
            "weight_decay": 5e-4,
            "schedule": "step",
            "milestones": (150, 180, 210),
        },
        {},
    ),
    "imagenet": Preset(
        {
            "dataset": "imagenet",
            "student": "resnet18",
            "epochs": 100,
            "batch_size": 256,
            "learning_rate": 0.1,
            "weight_decay": 1e-4,
            "schedule": "step",
            "milestones": (30, 60, 90),
            "workers": 8,
        },
        {
            "kd": {"temperature": 1.0, "ce_weight": 0.5, "kd_weight": 0.5},
            "dkd": {"temperature": 1.0, "beta": 0.5},
            "dist": {"temperature": 1.0},
        },
    ),
}
