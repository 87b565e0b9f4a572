"""DistributedDataParallel with the loss of the global batch. Install: PyTorch and this package.

torchrun --nproc-per-node=2 docs/examples/data_parallel.py
"""

import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from bickd_kernels import BicKDLoss


def main(epochs: int = 20) -> float:
    """Trains a student on one random global batch; returns its loss in the last step, which is the same on every rank."""
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    torch.manual_seed(0)
    dataset = TensorDataset(torch.randn(64, 3, 8, 8), torch.randint(10, (64,)))
    sampler: DistributedSampler[int] = DistributedSampler(dataset)
    loader = DataLoader(dataset, batch_size=64 // dist.get_world_size(), sampler=sampler)
    teacher, network = (
        nn.Sequential(nn.Flatten(), nn.Linear(192, width), nn.ReLU(), nn.Linear(width, 10)).to(device) for width in (256, 32)
    )
    teacher.eval()
    student = DistributedDataParallel(network)
    # Without a group, each rank would contrast its own samples only.
    criterion = BicKDLoss(group=dist.group.WORLD)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            with torch.no_grad():
                teacher_logits = teacher(images)
            loss = criterion(student(images), teacher_logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if dist.get_rank() == 0:
            print(f"epoch {epoch}: loss {loss.item():.6f}")
    dist.destroy_process_group()
    return loss.item()


if __name__ == "__main__":
    main()
