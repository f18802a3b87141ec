"""Tables in, tables of results out: `coordinates`, `transfer`, `norms`, `unit_scale`.

Public: `mupl.verdict`, of `mupl.analysis.transfer` `best`, `optima` and `transfer`, and of
`mupl.analysis.loss_tables` `read_losses` and `Columns`.
"""
