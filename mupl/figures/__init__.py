"""Tables in, figures out: `plot_...` of `coordinates`, `transfer`, `norms`, `unit_scale`."""
