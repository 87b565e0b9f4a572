"""The recipes that people know by name: what they set beside the defaults of ``Config``, and beside those of a method.

``cifar``: the one that the figures for CIFAR-100 in the literature come from (Tian et al., arXiv 1910.10699).
``imagenet``: 100 epochs of ResNets at batch 256 (the same), with the methods' settings for ImageNet of Zhao et al.
(arXiv 2203.08679) and Huang et al. (arXiv 2205.10536).
``imagenet-a3``: 100 epochs at 160 pixels like procedure A3 of Wightman, Touvron, Jégou, ResNet strikes back
(arXiv 2110.00476), with its mixup, CutMix and RandAugment; AdamW in place of LAMB, the cross-entropy in place of the binary
one, and tests at 160 pixels in place of 224.

No paper has settings of ``bickd`` for these recipes. Its defaults are those for CIFAR-100; for ImageNet its KD term has what
``kd`` has there. Without a table of accuracies for either they are starting points, not results.
"""

from typing import Any, NamedTuple


class Preset(NamedTuple):
    """Defaults of a run, by method those of its settings that differ from its own defaults, and a line of help."""

    config: dict[str, Any]
    settings: dict[str, dict[str, Any]]
    help: str


IMAGENET_SETTINGS: dict[str, dict[str, Any]] = {
    "kd": {"temperature": 1.0, "ce_weight": 0.5, "kd_weight": 0.5},
    "dkd": {"temperature": 1.0, "beta": 0.5},
    "dist": {"temperature": 1.0},
    "bickd": {"kd_temperature": 1.0, "ce_weight": 0.5, "kd_weight": 0.5},
}

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
        {"bickd": {"kd_temperature": 4.0, "ce_weight": 0.1, "kd_weight": 0.9}},
        "240 epochs of CIFAR-100, as in the distillation literature",
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
        IMAGENET_SETTINGS,
        "100 epochs of ImageNet, as in the distillation literature",
    ),
    "imagenet-a3": Preset(
        {
            "dataset": "imagenet",
            "student": "resnet18",
            "image_size": 160,
            "auto_augment": "randaugment",
            "mixup": 0.1,
            "cutmix": 1.0,
            "epochs": 100,
            "batch_size": 1024,
            "optimizer": "adamw",
            "learning_rate": 2e-3,
            "weight_decay": 0.05,
            "decay_norms_and_biases": False,
            "clip_norm": 1.0,
            "schedule": "cosine",
            "warmup_epochs": 5,
            "workers": 8,
        },
        # Of mixed images each sample is its own positive.
        {**IMAGENET_SETTINGS, "bickd": {**IMAGENET_SETTINGS["bickd"], "positives": "sample"}},
        "100 epochs of ImageNet at 160 pixels with mixup, CutMix and AdamW, like ResNet strikes back's A3",
    ),
}
