"""Cutting a network into cores and chips, and what that costs."""
