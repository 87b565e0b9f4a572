"""A plain PyTorch training loop. Install: PyTorch and this package."""

import torch
from torch import nn

from bickd_kernels import BicKDLoss


def main(steps: int = 20) -> float:
    """Trains a student on one random batch; returns the loss of the last step."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, labels = torch.randn(64, 3, 8, 8, device=device), torch.randint(10, (64,), device=device)
    teacher, student = (
        nn.Sequential(nn.Flatten(), nn.Linear(192, width), nn.ReLU(), nn.Linear(width, 10)).to(device) for width in (256, 32)
    )
    teacher.eval()
    criterion = BicKDLoss()
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.01)
    for step in range(steps):
        with torch.no_grad():
            teacher_logits = teacher(images)
        loss = criterion(student(images), teacher_logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}: loss {loss.item():.4f}")
    return loss.item()


if __name__ == "__main__":
    main()
