"""Lava processes; nothing else may live here (the Lava compiler executes every file)."""
