"""Registers the loss with torchdistill, whose configurations then name it. Install: pip install "torchdistill>=1.1.3"."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import RandomSampler, TensorDataset
from torchdistill.core.distillation import get_distillation_box
from torchdistill.losses.registry import register_mid_level_loss

from bickd_kernels import BicKDLoss


@register_mid_level_loss(key="BicKDLoss")
class RegisteredBicKDLoss(nn.Module):
    """Takes what torchdistill records of both networks; "." is the whole network, whose output are the logits."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.criterion = BicKDLoss(**options)

    def forward(self, student_io: dict[str, Any], teacher_io: dict[str, Any], targets: Tensor) -> Any:
        return self.criterion(student_io["."]["output"], teacher_io["."]["output"], targets)


def configuration(epochs: int) -> dict[str, Any]:
    """What a YAML file of torchdistill has below ``train``."""
    bickd = {"criterion": {"key": "BicKDLoss", "kwargs": {"bilateral_weight": 4.0}}, "weight": 1.0}
    return {
        "num_epochs": epochs,
        "train_data_loader": {
            "dataset_id": "train", "sampler": {"class_or_func": RandomSampler}, "kwargs": {"batch_size": 64}
        },
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only"},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"bickd": bickd}}},
        "optimizer": {"key": "AdamW", "kwargs": {"lr": 0.01}},
    }  # fmt: skip


def main(epochs: int = 20) -> float:
    """Trains a student on one random batch; returns the loss of the last step."""
    torch.manual_seed(0)
    data = {"train": TensorDataset(torch.randn(64, 3, 8, 8), torch.randint(10, (64,)))}
    teacher, student = (
        nn.Sequential(nn.Flatten(), nn.Linear(192, width), nn.ReLU(), nn.Linear(width, 10)) for width in (256, 32)
    )
    device, train = torch.device("cpu"), configuration(epochs)
    box = get_distillation_box(teacher.eval(), student, data, train, device, device_ids=None, distributed=False, lr_factor=1)
    for epoch in range(epochs):
        box.pre_epoch_process(epoch=epoch)
        for images, labels, supplement in box.train_data_loader:
            loss = box.forward_process(images, targets=labels, supp_dict=supplement)
            box.post_forward_process(loss=loss)
        box.post_epoch_process()
        print(f"epoch {epoch}: loss {loss.item():.4f}")
    return float(loss.item())


if __name__ == "__main__":
    main()
