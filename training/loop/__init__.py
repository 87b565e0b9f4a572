"""The training loop (engine.py) and its parts: processes, random numbers, running sums, schedules, the forward passes of
student and teacher, evaluation."""
