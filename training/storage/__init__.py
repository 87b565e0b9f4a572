"""Files of a run: atomic writes, trained models, the state of an unfinished run, its metrics, its description."""
