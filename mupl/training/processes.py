"""Which of the processes of a run this one is, before there is a trainer."""

import os

# What torchrun, Lightning's own launcher and Slurm set, the most telling first
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")


def is_first_process() -> bool:
    """Say whether this process writes the files of a run; the others only train.

    >>> is_first_process()
    True
    """
    for name in RANKS:
        if name in os.environ:
            return int(os.environ[name]) == 0
    return True
