"""Integer reference, fast exact engine, counters and energy conventions."""
