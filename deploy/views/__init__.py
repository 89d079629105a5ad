"""Reports as text and as a page."""
