"""The command `mupl`: train, and look at rule tables and at models without training."""

import argparse
import os
import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mupl.errors import ConfigError

FORMATS = ("rich", "markdown", "latex", "csv")
Rows = Sequence[Mapping[str, Any]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `mupl ARGUMENTS`; bad input is one line on stderr and exit code 1."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    sys.path.insert(0, os.getcwd())  # as `python -m` does: models of the user's own repository
    try:
        if given[:1] == ["train"]:  # the rest is Hydra's
            train(given[1:])
        else:
            parsed = _parser().parse_args(given)
            parsed.run(parsed)
    except ConfigError as error:
        sys.exit(f"error: {error}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("mupl"):
            raise
        sys.exit(f"error: this needs the package {error.name}: pip install 'mupl[train]'")


def train(overrides: Sequence[str]) -> None:
    """Do what `python train.py OVERRIDES` does in a checkout."""
    from mupl.training.cli import run_training

    sys.argv = ["mupl train", *overrides]
    run_training()


def show_table(options: argparse.Namespace) -> None:
    """Print the rules of one parametrization, or of all, or the theta that leads from one to another."""
    from mupl.parametrization.tables import TABLES

    if options.to is not None:
        source = options.source or options.name
        if source is None:
            raise ConfigError("mupl table: --to needs --from, such as --from mup --to mup_table9")
        _print(_theta_rows(source, options.to), f"theta from {source} to {options.to}", options)
        return
    for name in [options.name] if options.name else TABLES:
        for kind in _update_kinds(name, options.optimizer):
            title = f"{name} under {kind} updates"
            _print(_rule_rows(name, kind), title, options)


def _update_kinds(name: str, optimizer: str | None) -> list[str]:
    from mupl.optim.registry import optimizer_rules
    from mupl.parametrization.rules import get_parametrization
    from mupl.parametrization.update_kinds import UpdateKind

    kinds = get_parametrization(name).update_kinds()
    if optimizer is None:
        return kinds
    wanted = optimizer_rules(optimizer).kinds()
    return [kind for kind in UpdateKind if kind in wanted]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mupl", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    add = _add_command
    add(
        commands, "train", None, "train as `python train.py` does; `mupl train --help` has the keys"
    )

    table = add(commands, "table", show_table, "print the rules of a parametrization, or of all")
    table.add_argument("name", nargs="?", help="such as mup; by default all")
    table.add_argument("--optimizer", help="such as adamw; by default every update kind")
    table.add_argument("--from", dest="source", help="with --to: the parametrization to start from")
    table.add_argument("--to", help="print theta, the shift by the abc-symmetry to this one")
    table.add_argument("--format", choices=FORMATS, default="rich")

    describe = add(
        commands, "describe", show_model, "print what each tensor of a model is and gets"
    )
    describe.add_argument("build", help="package.module:function, a function width -> nn.Module")
    describe.add_argument("--width", type=int, required=True)
    describe.add_argument("--base-width", type=int, required=True)
    describe.add_argument("--parametrization", default="mup")
    describe.add_argument("--optimizer", default="adamw")
    describe.add_argument("--lr", type=float, default=1e-3, help="at the base width")
    describe.add_argument("--weight-decay", type=float, default=0.0, help="at the base width")
    describe.add_argument("--format", choices=FORMATS, default="rich")
    return parser
