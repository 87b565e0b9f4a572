"""A model of the time of Triton launches on a GPU, without one.

ptx                                                       parses a kernel
values, registers, arithmetic, memory, warps, execution   execute its programs, and record what their warps do
clock                                                     computes a multiprocessor's clocks for the executed programs
launches                                                  compiles and executes the launches of a loss call
model                                                     computes the time of a launch on a GPU
"""
