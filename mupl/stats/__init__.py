"""Statistics of a training run: of layers, weights and their updates, step by step."""
