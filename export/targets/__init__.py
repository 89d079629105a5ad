"""File formats of the targets."""
