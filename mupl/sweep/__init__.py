"""A sweep beside its jobs: what it shows while it runs, and its results as one table."""
