"""Tables in, tables of results out: `coordinates`, `transfer`, `norms`, `unit_scale`.

Public: `mupl.verdict`, and of `mupl.analysis.transfer` `best`, `optima` and `transfer`.
"""
