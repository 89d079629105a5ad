"""Everything that touches the Lava runtime."""
