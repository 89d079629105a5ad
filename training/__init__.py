"""Data set, losses, trainer and the taaf-train command."""
