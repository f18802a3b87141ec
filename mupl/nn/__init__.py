"""What a parametrization acts on: layers, multipliers, and putting scales into a module."""
