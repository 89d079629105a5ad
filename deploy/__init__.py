"""Backends, Lava runtime owner, report and the taaf-deploy command."""
