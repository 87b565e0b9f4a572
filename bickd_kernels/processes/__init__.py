"""The loss over the batches of all processes of a group.

Reading order: ``agreement`` compares what the ranks are about to compute, ``exchange`` moves tensors, ``global_batch`` calls
a backend on what was gathered, or ``summed_batch`` adds up what the ranks computed of their own samples.
"""
