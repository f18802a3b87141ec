"""The columns of a sweep's table of results."""

IDENTITY = (
    "width",
    "lr",
    "seed",
    "parametrization",
    "optimizer",
)  # always there; other swept keys follow them
OUTCOMES = (
    "status",
    "steps",
    "train_loss",
    "val_loss",
    "val_accuracy",
    "seconds",
    "error",
    "folder",
)
