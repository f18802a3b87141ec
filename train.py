"""The entry point of a checkout: `python train.py key=value ...`, a sweep with -m."""

from mupl.training.cli import train_from_command_line

if __name__ == "__main__":
    train_from_command_line()
