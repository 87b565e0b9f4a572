"""A model of the time that launches of Triton take on a GPU that is not there.

ptx                                                       reads a kernel
values, registers, arithmetic, memory, warps, execution   execute programs of it, and note what their warps do
clock                                                     how long a multiprocessor takes for what was executed
launches                                                  the launches of a call of the loss, compiled and executed
model                                                     the time of a launch on a GPU
"""
