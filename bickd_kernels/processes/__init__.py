"""The loss of a process group's global batch.

Reading order: ``agreement`` compares what the ranks are about to compute; ``exchange`` moves tensors; ``global_batch`` calls
a backend on the gathered batch, or ``summed_batch`` sums what each rank computed from its own samples.
"""
