"""Balance strategies and the training step that applies them."""
