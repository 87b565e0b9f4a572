"""Trains a teacher, and students under it, with every method under one protocol."""

import os

# torchvision loads published weights in a way that can execute code in the file; this makes every torch.load refuse to.
os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
