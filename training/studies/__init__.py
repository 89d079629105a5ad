"""Studies over many trainings, their tables and curves."""
