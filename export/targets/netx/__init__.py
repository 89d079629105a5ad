"""NetX HDF5, read and written."""
