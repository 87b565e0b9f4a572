"""A Lightning module that distils a student. Install: pip install "lightning>=2.5"."""

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from bickd_kernels import BicKDLoss


class Distillation(L.LightningModule):
    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher.eval().requires_grad_(False)
        self.criterion = BicKDLoss()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss: Tensor = self.criterion(self.student(images), self.teacher(images), labels)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.student.parameters(), lr=0.01)


def main(steps: int = 20) -> float:
    """Trains a student on one random batch; returns the loss of the last step."""
    L.seed_everything(0)
    dataset = TensorDataset(torch.randn(64, 3, 8, 8), torch.randint(10, (64,)))
    teacher, student = (
        nn.Sequential(nn.Flatten(), nn.Linear(192, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 10))
        for width in (256, 32)
    )
    trainer = L.Trainer(max_steps=steps, logger=False, enable_checkpointing=False)
    trainer.fit(Distillation(student, teacher), DataLoader(dataset, batch_size=64))
    loss = trainer.callback_metrics["train_loss"].item()
    print(f"loss {loss:.4f} after {steps} steps")
    return loss


if __name__ == "__main__":
    main()
