"""The PyTorch operations that the loss of one process (``tiled``) and that of several (``global_batch``) are made of."""
