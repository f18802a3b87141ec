"""Optimizers that torch has not, schedules, and param groups."""

from mupl.optim.elementwise import AdamAtan2, Lion, SignSGD
from mupl.optim.normalized import Normalized
from mupl.optim.orthogonal import Orthogonal
from mupl.optim.schedules import Schedule
from mupl.optim.scion import Scion

__all__ = ["AdamAtan2", "Lion", "Normalized", "Orthogonal", "Schedule", "Scion", "SignSGD"]
