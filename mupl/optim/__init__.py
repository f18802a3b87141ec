"""Optimizers that torch has not, schedules, and param groups."""

from mupl.optim.elementwise import AdamAtan2, Lion, SignSGD
from mupl.optim.orthogonal import Orthogonal
from mupl.optim.schedules import Schedule

__all__ = ["AdamAtan2", "Lion", "Orthogonal", "Schedule", "SignSGD"]
