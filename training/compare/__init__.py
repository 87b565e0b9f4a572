"""``python -m training.compare``, in the order of the work:

comparison.py   the settings: variants of methods, under one recipe
runs.py         the runs that they ask for, each with a folder, and what became of them
jobs.py         runs as processes of the trainer, and their progress
tuning.py       the settings that the trials of a variant try, and which of them is chosen
results.py      what the folders hold: rows over seeds, their figures, results.json
tables.py       results.md and the tables of the terminal
plots.py        the pictures
__main__.py     the command, from its arguments to its exit status
"""
