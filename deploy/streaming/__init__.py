"""Streams of time steps: long recordings, standard input, a local socket; sliding windows; decisions as they fall."""
