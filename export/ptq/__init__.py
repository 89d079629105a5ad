"""Post-training quantisation of float networks."""
