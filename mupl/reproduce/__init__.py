"""Figures of papers and of a course, made again: one config a figure, and its numbers compared.

A config of `conf/reproduce` says what a figure shows, by which commands its runs are trained, from
which table it is drawn, and which numbers are expected. `mupl reproduce` is the command.
"""
