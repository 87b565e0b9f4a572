"""Student and method as one module, which computes a step's forward pass and which DistributedDataParallel wraps."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from training.methods import Method, Samples, Terms
from training.models import Network, Output

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Step(NamedTuple):
    """The loss of a step, its unweighted terms, and the number of samples that the student classifies correctly (for mixed
    samples, the label with the larger share); all on the device."""

    loss: Tensor
    terms: Terms
    right: Tensor


class Learner(nn.Module):
    """The trained modules: the student, and the heads of the method if it has any. The teacher is not included."""

    def __init__(self, student: Network, method: Method, precision: str = "float32") -> None:
        super().__init__()
        self.student, self.method, self.precision = student, method, precision

    def forward(self, images: Tensor, teacher: Output | None, samples: Samples, first_stage: bool = False) -> Step:
        """The forward pass on ``images`` ``(V B, channels, height, width)``, the method's views of ``B`` samples."""
        if not len(samples.target):
            return self._without_samples(samples, first_stage)
        if first_stage:
            assert teacher is not None
            return Step(*self.method.first_stage_loss(teacher, samples), torch.zeros((), device=images.device))
        output = run(self.student, images, precision=self.precision, features=self.method.needs_features)
        loss, terms = self.method(output, teacher, samples)
        upright = output.logits.detach()[: len(samples.target)]
        target = samples.target if samples.target.dim() == 1 else samples.target.argmax(dim=1)
        return Step(loss, terms, (upright.argmax(dim=1) == target).sum())

    def _without_samples(self, samples: Samples, first_stage: bool) -> Step:
        """The step of a process without samples while others have some: it joins all exchanges, with a gradient of 0."""
        if not first_stage:
            self.method.without_samples(self.student.classes, samples)
        nothing = torch.zeros((), device=samples.target.device)
        # DistributedDataParallel waits for a gradient of every parameter.
        touched = sum((each.sum() for each in self.parameters() if each.requires_grad), nothing)
        return Step(0.0 * touched, {}, nothing)


def run(network: Network, images: Tensor, *, precision: str, features: bool) -> Output:
    """The network's output in float32, computed under autocast in a lower precision."""
    if precision == "float32":
        return network(images, features=features)
    with torch.autocast(images.device.type, dtype=AUTOCAST[precision]):
        output = network(images, features=features)
    return output.map(Tensor.float)
