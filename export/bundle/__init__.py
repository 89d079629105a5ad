"""The deployment bundle: `reader`, `writer`, `manifest`."""
