"""The training loop and what it stands on: processes and random numbers, sums and schedules, the forward passes of student
and teacher, accuracy; the loop itself is engine.py."""
