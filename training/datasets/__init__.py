"""Real data sets on disk, read exactly in their published layouts."""
