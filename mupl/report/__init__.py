"""What a sweep ends with.

A report is a function `(sweep folder, metric) -> exit code` that leaves tables and
figures there."""
