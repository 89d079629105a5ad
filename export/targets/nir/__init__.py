"""NIR in and out."""
