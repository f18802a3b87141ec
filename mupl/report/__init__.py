"""What a sweep ends with: a module for each report, whose name is also its short name.

A report is a function `(sweep folder, metric) -> exit code`, named as its module, that leaves
tables and figures in the folder. Tables come first: a figure that fails loses none of them.
"""
