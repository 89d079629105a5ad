"""The event-driven engine: lists of spikes, integer kernels compiled by Numba."""
