"""Lowering passes, quantisation, limits, NetX target, bundle and the taaf-export command."""
