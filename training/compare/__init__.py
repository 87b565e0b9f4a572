"""``python -m training.compare``, in the order of execution:

comparison.py   the settings: variants of methods, under one recipe
runs.py         the runs of a comparison, each with a folder and an outcome
jobs.py         runs as processes of the trainer, and their progress
tuning.py       the settings of the trials of a variant, and the choice among them
results.py      what the folders hold: rows over seeds, their statistics, results.json
tables.py       results.md and the tables for the terminal
plots.py        the plots
__main__.py     the command, from its arguments to its exit status
"""
