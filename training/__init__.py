"""Training of a teacher, and of students under it, by every method under one protocol."""
