"""A distillation task of timm with the BicKD loss. Install: pip install "timm>=1.0.27"."""

import torch
from timm import create_model
from timm.optim import create_optimizer_v2
from timm.task import LogitDistillationTask
from torch import Tensor

from bickd_kernels import BicKDLoss


class BicKDTask(LogitDistillationTask):
    """Computes ``criterion(student_logits, teacher_logits, target)``; the parent keeps the teacher and its normalization."""

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        student_logits = self.trainable_module(input)
        with torch.no_grad():
            teacher_logits = self.teacher(self.teacher.normalize_input(input, self.student_mean, self.student_std))
        return {"loss": self.criterion(student_logits, teacher_logits, target), "output": student_logits}


def main(steps: int = 20) -> float:
    """Trains a student on one random batch; returns the loss of the last step."""
    torch.manual_seed(0)
    images, labels = torch.randn(16, 3, 32, 32), torch.randint(10, (16,))
    teacher = create_model("resnet18", num_classes=10)
    student = create_model("test_resnet", num_classes=10)
    task = BicKDTask(student, teacher, criterion=BicKDLoss()).train()
    optimizer = create_optimizer_v2(student, opt="adamw", lr=0.01)
    for step in range(steps):
        loss = task(images, labels)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}: loss {loss.item():.4f}")
    return loss.item()


if __name__ == "__main__":
    main()
