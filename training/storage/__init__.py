"""What is on the disk: files written whole, trained models, the state of an unfinished run, its numbers, its description."""
