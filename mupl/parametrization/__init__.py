"""Rule tables, the numbers that follow from them for each tensor, and putting those into a module."""
