"""Semantic segmentation: classes moved to the last dimension, void pixels ignored. Install: PyTorch and this package."""

import torch
from torch import nn

from bickd_kernels import BicKDLoss

CLASSES, VOID = 19, 255


def main(steps: int = 20) -> float:
    """Trains a student on one random batch; returns the loss of the last step."""
    torch.manual_seed(0)
    images, labels = torch.randn(2, 3, 16, 16), torch.randint(CLASSES, (2, 16, 16))
    labels[:, :2] = VOID
    teacher, student = (
        nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, CLASSES, 1)) for width in (64, 8)
    )
    teacher.eval()
    # Each pixel is a sample, and the sample-wise side would compare every pixel with every other.
    criterion = BicKDLoss(sample_wise_weight=0.0, ignore_index=VOID)
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.01)
    for step in range(steps):
        with torch.no_grad():
            teacher_logits = teacher(images)  # (B, C, H, W)
        loss = criterion(student(images).movedim(1, -1), teacher_logits.movedim(1, -1), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}: loss {loss.item():.4f}")
    return loss.item()


if __name__ == "__main__":
    main()
