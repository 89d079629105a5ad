"""Early exit and the comparison with the paper's energies."""
