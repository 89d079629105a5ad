"""What taaf-export does beside bundles."""
