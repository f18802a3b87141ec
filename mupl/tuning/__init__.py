"""Finding hyperparameters: which settings are tried, and which of them go on."""
