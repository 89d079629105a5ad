"""Ways to execute a bundle."""
