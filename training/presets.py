"""Well-known recipes by name: the values that replace the defaults of ``Config`` and those of a method.

``cifar``: the recipe behind the CIFAR-100 results in the literature (Tian et al., arXiv 1910.10699).
``imagenet``: 100 epochs of ResNets at batch size 256 (the same paper), with the ImageNet settings of the methods from Zhao
et al. (arXiv 2203.08679) and Huang et al. (arXiv 2205.10536).
``imagenet-a3``: 100 epochs at 160 pixels like procedure A3 of Wightman, Touvron, Jégou, ResNet strikes back
(arXiv 2110.00476), with its mixup, CutMix and RandAugment; but AdamW instead of LAMB, cross-entropy instead of binary
cross-entropy, and tests at 160 instead of 224 pixels.

No paper gives ``bickd`` settings for these recipes. For CIFAR-100 it uses its defaults; for ImageNet its KD term uses the
settings of ``kd``. Without published accuracies for either, they are starting points, not results.
"""

from typing import Any, NamedTuple


class Preset(NamedTuple):
    """Default values of a run, for each method the settings that differ from its own defaults, and a line of help."""

    config: dict[str, Any]
    settings: dict[str, dict[str, Any]]
    help: str


IMAGENET_SETTINGS: dict[str, dict[str, Any]] = {
    "kd": {"temperature": 1.0, "ce_weight": 0.5, "kd_weight": 0.5},
    "dkd": {"temperature": 1.0, "beta": 0.5, "warmup_epochs": 1},
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
        # With mixed images each sample is its own positive.
        {**IMAGENET_SETTINGS, "bickd": {**IMAGENET_SETTINGS["bickd"], "positives": "sample"}},
        "100 epochs of ImageNet at 160 pixels with mixup, CutMix and AdamW, like ResNet strikes back's A3",
    ),
}
