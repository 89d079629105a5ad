"""Integer reference, fast exact engine, counters and energy conventions, mapper onto cores and chips."""
