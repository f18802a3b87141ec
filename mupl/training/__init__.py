"""One training: its setup, its loop by Lightning, and what is checked and found around it."""
