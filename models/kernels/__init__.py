"""Compiled loops: how they are compiled and kept, the threads they run on, and those of training."""
