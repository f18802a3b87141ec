"""mupl: the Maximal Update Parametrization, to study and to use."""
