"""Training of a teacher, and of students under it, by every method under one protocol."""

import os

# torchvision loads published weights in the way that executes what is in the file; this makes every torch.load refuse to.
os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
