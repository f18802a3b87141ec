"""The command `mupl`: train, and look at rules, models and sweeps without training."""

import argparse
import os
import pkgutil
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mupl import __version__
from mupl.errors import ConfigError, raised_by_user
from mupl.names import import_from_working_folder

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("rich", "markdown", "latex", "csv")
LEGEND = """Cells multiply what was tuned at the base width. m_in = fan_in / base fan_in; so m_out.
W, update: predicted powers of width of W = mult * w at init, and of an update of it."""
OF_TABLES = (  # of mupl report
    *("size", "lr", "hyperparameter", "loss", "seed", "by", "tuned", "log2", "figure"),
)
OF_FOLDERS = ("report", "metric", "where", "expect")
Rows = list[dict[str, Any]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `mupl ARGUMENTS`; bad input is one line on stderr and exit code 1."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    import_from_working_folder()
    try:
        if given[:1] == ["train"]:
            train(given[1:])  # Hydra reads the rest
            return
        options = _parser().parse_args(given)
        sys.exit(options.run(options))
    except ConfigError as error:
        sys.exit(f"error: {error}")
    except (
        BrokenPipeError
    ):  # of `mupl ls | head`; Python must not write what is left on its way out
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("mupl"):
            raise
        sys.exit(f"error: this needs the package {error.name}: pip install 'mupl[train]'")
    except Exception as error:
        said = raised_by_user(error)
        if not said:
            raise
        sys.exit(f"error: {said}")


def train(overrides: Sequence[str]) -> None:
    """Do what `python train.py OVERRIDES` does in a checkout."""
    from mupl.training.cli import train_from_command_line

    sys.argv = ["mupl train", *overrides]
    train_from_command_line()


def table(options: argparse.Namespace) -> None:
    """Print the rules of one parametrization or of all, or the shift from one to another."""
    from mupl.parametrization.exponents import table_with_exponents
    from mupl.parametrization.rules import get_parametrization, parametrizations

    if options.to is not None:
        _shift_tables(options)
        return
    known = {row["name"]: row for row in parametrizations()}
    for name in [options.name] if options.name else known:
        parametrization = get_parametrization(name)
        about = known[name]
        source = f"{about['about']} ({about['paper']}, {about['year']})"
        for kind in _update_kinds(options.optimizer):
            if options.name is None and kind not in parametrization.update_kinds:
                continue  # of all tables, those that have rules for it
            rows = table_with_exponents(parametrization, kind)
            show(rows, f"{name}, {kind} updates: {source}", options.format)
    if options.format == "rich":
        print(LEGEND)


def _shift_tables(options: argparse.Namespace) -> None:
    from mupl.parametrization.rules import get_parametrization
    from mupl.parametrization.symmetry import theta_between
    from mupl.roles import Role

    name = options.source or options.name
    if name is None:
        raise ConfigError("mupl table: --to needs --from, such as --from mup --to mup_table9")
    before = get_parametrization(name)
    after = get_parametrization(options.to)
    for kind in _update_kinds(options.optimizer):
        rows = []
        for role in Role:
            theta = theta_between(before.rule(kind, role), after.rule(kind, role), kind)
            same = "yes" if theta is not None else "no: learning rate, eps or init differ"
            rows.append({"role": str(role), "theta": str(theta or "-"), "same training": same})
        title = f"mult *= theta, init /= theta leads from {name} to {options.to}, {kind} updates"
        show(rows, title, options.format)


def _update_kinds(optimizer: str | None) -> list[str]:
    """List the kinds of updates that an optimizer makes; None stands for Adam's, the usual one."""
    from torch import nn

    from mupl.optim.registry import optimizer_rules
    from mupl.parametrization.update_kinds import UpdateKind
    from mupl.roles import describe

    infos = describe(lambda width: nn.Linear(width, width), width=2, base_width=1)
    rules = optimizer_rules(optimizer or UpdateKind.ADAM)
    return sorted({str(rules.kind_of(info)) for info in infos.values()}, reverse=True)


def describe_model(options: argparse.Namespace) -> None:
    """Print what each tensor of `build(width)` is, and what it gets."""
    from mupl.optim.scaling import scale
    from mupl.parametrization.scales import scale_rows, telling
    from mupl.roles import describe

    build = _resolved(options.build, "a function width -> nn.Module")
    infos = describe(build, width=options.width, base_width=options.base_width)
    tuned: dict[str, Any] = {"lr": options.lr, "weight_decay": options.weight_decay}
    tuned["tune"] = _tune(options.tune)
    scales = scale(infos, options.parametrization, options.optimizer, **tuned)
    title = f"{options.build}, {options.parametrization}, {options.optimizer}"
    title += f", width {options.width}, base width {options.base_width}"
    rows: Rows = scale_rows(infos, scales)
    if options.format == "rich" and not options.all_columns:
        rows = telling(rows)
    show(rows, title, options.format)
    for sentence in infos.warnings:
        print(f"warning: {sentence}", file=sys.stderr)


def _tune(texts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Read factors by module as they are written on a command line: hidden.lr=2."""
    tune: dict[str, dict[str, float]] = {}
    for text in texts:
        key, _, number = text.partition("=")
        name, dot, factor = key.rpartition(".")
        try:
            value = float(number)
        except ValueError:
            dot = ""
        if not dot:
            raise ConfigError(f"--tune {text}: must be a factor by role or glob, as hidden.lr=2")
        tune.setdefault(name, {})[factor] = value
    return tune


def _resolved(name: str, what: str) -> Any:
    """Import what is named as package.module:function."""
    try:
        return pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError, SyntaxError) as error:
        raise ConfigError(
            f"{name}: must name {what}, as package.module:function, importable from here ({error})"
        ) from error


def check(options: argparse.Namespace) -> int:
    """Make a coordinate check of `build(width)`, and print the verdict; 1 if something fails."""
    from mupl.analysis.coordinates import (
        alignment_exponents,
        count,
        has_failed,
        relative_updates,
        verdict,
    )
    from mupl.report.coordinate_check import (
        show_alignment,
        show_relative_updates,
        show_verdict,
    )

    rows = _checked_rows(options)
    table = verdict(rows)
    show_verdict(table, "width")
    show_alignment(alignment_exponents(rows))
    show_relative_updates(relative_updates(rows))
    print(f"coordinate check of {options.build}, {options.parametrization}: {count(table)}")
    if options.figure is not None:
        from mupl.figures.coordinates import plot_coordinates
        from mupl.figures.look import styled
        from mupl.report.common import save

        title = f"{options.build}, {options.parametrization}"
        with styled():
            save(plot_coordinates(rows, title, verdict=table), [options.figure])
    return int(has_failed(table))


def _checked_rows(options: argparse.Namespace) -> "pd.DataFrame":
    """Train as a coordinate check's options say, print warnings, and return what was recorded."""
    from mupl.optim.registry import optimizer_rules
    from mupl.training.coord_check import coord_check
    from mupl.training.random_data import random_batches

    build = _resolved(options.build, "a function width -> nn.Module")
    if options.seeds < 1:
        raise ConfigError(f"--seeds={options.seeds}: must be a whole number >= 1, such as 5")
    widths = _widths(options.widths)
    if len(set(widths)) < 2:
        raise ConfigError("--widths: needs at least two, such as --widths 64,128,256,512")
    steps = _steps(options.steps) or optimizer_rules(options.optimizer).check_steps
    arguments: dict[str, Any] = {"statistics": _names(options.statistics)}
    if options.step is not None:
        arguments["step"] = _resolved(options.step, "a function (model, batch) -> loss")
    if options.data is None:
        batches, arguments["loss"] = random_batches(build, widths[0], steps[-1] + 1)
    else:
        data = _resolved(options.data, "batches, or a function that returns them")
        batches = data() if callable(data) else data
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows = coord_check(
            build,
            widths,
            batches,
            base_width=widths[0] if options.base_width is None else options.base_width,
            seeds=range(options.seeds),
            steps=steps,
            parametrization=options.parametrization,
            optimizer=options.optimizer,
            lr=options.lr,
            **arguments,
        )
    for sentence in dict.fromkeys(str(warning.message) for warning in caught):
        print(f"warning: {sentence}", file=sys.stderr)
    return rows


def _widths(text: str) -> list[int]:
    """Read widths as they are written on a command line: 64,128,256."""
    try:
        return [int(width) for width in text.split(",")]
    except ValueError as error:
        raise ConfigError(
            f"--widths={text}: must be whole numbers, such as --widths 64,128,256,512"
        ) from error


def _steps(text: str | None) -> list[int]:
    """Read steps as a number of them, 3, or as a list, 0,1,2,4,16; none if nothing is given."""
    if text is None:
        return []
    try:
        numbers = [int(step) for step in text.split(",")]
    except ValueError:
        numbers = [-1]
    steps = numbers if "," in text else list(range(numbers[0]))
    if not steps or min(steps) < 0:
        raise ConfigError(
            f"--steps={text}: must be a number >= 1, such as 3, or the steps to look at, such as "
            "0,1,2,4,16,64,256"
        )
    return sorted(steps)


def report(options: argparse.Namespace) -> int:
    """Make the report of a sweep again from its folder, or of tables of losses from files."""
    for path in options.source:
        if not path.exists():
            raise ConfigError(f"{path}: there is no such folder or file")
    if any(path.is_dir() for path in options.source):
        return _report_sweeps(options)
    _refuse(options, OF_FOLDERS, "a sweep's folder; the loss of a table is --loss")
    from mupl.analysis.loss_tables import Columns
    from mupl.figures.look import looking
    from mupl.report.tables import table_transfer

    columns = Columns(
        size=options.size,
        lr=options.lr,
        loss=options.loss,
        seed=options.seed,
        by=options.by,
        tuned=options.tuned or (),
        log2=bool(options.log2),
        hyperparameter=options.hyperparameter,
    )
    with looking(_look(options)):
        return table_transfer(options.source, columns, options.out, options.figure)


def _report_sweeps(options: argparse.Namespace) -> int:
    """Make the report of a sweep again, or one that compares several."""
    from mupl.figures.look import looking
    from mupl.identity import METRICS
    from mupl.sweep.reports import run_report, write_page

    _refuse(options, OF_TABLES, "tables of losses; a sweep's folder says itself what is what")
    metric = options.metric or "val_loss"
    if metric not in METRICS:
        raise ConfigError(f"--metric={metric}: must be one of {', '.join(METRICS)}")
    folder = _report_folder(options)
    name = options.report or _report_of(options.source)
    expect = dict(_setting("--expect", text) for text in options.expect or ())
    look = _look(options)
    with looking(look):
        code = run_report(name, folder, metric, where=options.where, expect=expect)
    write_page("write_sweep_page", folder, metric)
    return code


def _look(options: argparse.Namespace) -> Any:
    """Return how figures are asked for: by the command line, or else by a sweep's config."""
    from mupl.figures.look import Look
    from mupl.sweep.plan import figure_options, read_plan

    given = figure_options(read_plan(options.source[0]))
    for key in ("format", "size", "font"):
        value = getattr(options, f"figure_{key}")
        if value is not None:
            given[key] = value
    return Look.of(given, "--figure-")


def _report_folder(options: argparse.Namespace) -> Path:
    """Return the folder of the report: the sweep's own, or a new one that compares sweeps."""
    from mupl.sweep.results import compare

    sweeps = options.source
    for path in sweeps:
        if not path.is_dir():
            raise ConfigError(f"{path}: is no folder; sweeps are not compared with tables")
    if len(sweeps) == 1:
        _refuse(options, ("out",), "tables, or several sweeps; one sweep's report is in its folder")
        return sweeps[0]
    folder = options.out or Path("_and_".join(path.resolve().name for path in sweeps))
    if folder.resolve() in [path.resolve() for path in sweeps]:
        raise ConfigError(f"--out {folder}: is one of the sweeps; name another folder")
    compare(sweeps, folder)
    return folder


def _report_of(sweeps: Sequence[Path]) -> str:
    """Return the report that the sweeps ended with.

    Raises:
        ConfigError: if they ended with different ones.
    """
    from mupl.sweep.plan import read_plan, report_name

    names = {path: report_name(read_plan(path)) for path in sweeps}
    known = sorted({name for name in names.values() if name is not None})
    if len(known) > 1:
        raise ConfigError(
            f"the sweeps end with different reports: {', '.join(known)}; say which by --report"
        )
    return known[0] if known else "hyperparameter_transfer"


def _setting(option: str, text: str) -> tuple[str, str]:
    name, equals, word = text.partition("=")
    if not equals:
        raise ConfigError(
            f"{option} {text}: must be PARAMETRIZATION=pass or =fail, such as sp=fail"
        )
    return name, word


def _refuse(options: argparse.Namespace, names: Sequence[str], what: str) -> None:
    for name in names:
        if getattr(options, name) is not None:
            raise ConfigError(f"--{name}: is for {what}")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def reproduce(options: argparse.Namespace) -> int:
    """Make figures of papers again; 1 if a number is not as expected, or an image differs."""
    from mupl.reproduce.command import reproduce

    return reproduce(options)


def sweep_status(options: argparse.Namespace) -> None:
    """Print how far a sweep is, and which processes run its jobs."""
    from mupl.sweep.status import status

    print(status(options.sweep))


def export(options: argparse.Namespace) -> None:
    """Write the numbers of a ladder's recommendation in the form of another program."""
    from mupl.road.export import export

    if not options.folder.is_dir():
        raise ConfigError(f"{options.folder}: there is no such folder")
    file, notes = export(options.folder, options.to, options.out)
    print(file)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def certificate(options: argparse.Namespace) -> None:
    """Print runs of a recommendation beside each other, and whether the recommended is best."""
    from mupl.road.neighbours import compare_runs

    table, sentence = compare_runs(options.run_folders)
    rows: Any = table.to_dict("records")
    show(rows, "runs of the target", options.format)
    print(sentence)


def list_sweeps(options: argparse.Namespace) -> None:
    """Print what the sweeps in a folder swept, how their jobs ended, and which was best."""
    from mupl.sweep.listing import list_sweeps

    if not options.folder.is_dir():
        raise ConfigError(f"{options.folder}: there is no such folder")
    show(list_sweeps(options.folder), f"sweeps in {options.folder}", options.format)


def pull(options: argparse.Namespace) -> None:
    """Write the table of results of a project on W&B."""
    from mupl.report.common import save_table
    from mupl.sweep.wandb_project import pull

    table = pull(options.project, options.group)
    file = options.out or Path(f"{options.project.rpartition('/')[2]}.csv")
    save_table(table, file)
    print(f"{len(table)} runs in {file}; mupl report {file} reports on them")


def workspace(options: argparse.Namespace) -> None:
    """Save views of transfer and coordinates on W&B, or write them as JSON."""
    from mupl.sweep.wandb_project import write_views

    for address in write_views(options.project, options.out):
        print(address)


def show(rows: Rows, title: str, form: str) -> None:
    """Print rows as a table: for the terminal, in Markdown, LaTeX or CSV."""
    import pandas as pd

    from mupl.terminal import print_table

    if form == "rich":
        print_table(rows, title)
    elif form == "csv":
        print(pd.DataFrame(rows).to_csv(index=False), end="")
    elif form == "latex":
        style = pd.DataFrame(rows).style.hide(axis="index").format(escape="latex")
        print(style.to_latex(caption=title, hrules=True))
    else:
        columns = list(rows[0])
        print(f"\n**{title}**\n")
        for cells in (columns, ["---"] * len(columns), *(row.values() for row in rows)):
            print("|", " | ".join(map(str, cells)), "|")


def _add_check(commands: Any) -> None:
    parser = commands.add_parser("check", help="make a coordinate check of any model")
    parser.add_argument("build", help="package.module:function, a function width -> nn.Module")
    parser.add_argument("--widths", required=True, help="such as 64,128,256,512")
    parser.add_argument("--base-width", type=int, help="where lr is right; the first of the widths")
    parser.add_argument(
        "--data", help="package.module:name, batches or a function that returns them; else random"
    )
    parser.add_argument("--step", help="package.module:function, (model, batch) -> loss")
    parser.add_argument(
        "--steps",
        help="how many, or which are looked at, such as 0,1,2,4,16,64,256; 3 if not given, and "
        "more for an optimizer whose updates settle late",
    )
    parser.add_argument(
        "--statistics",
        default="l1",
        help="l1 (mean |x|), rms; of matrices frobenius, spectral, rms_to_rms: with commas",
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--parametrization", default="mup")
    parser.add_argument("--optimizer", default="adamw")
    parser.add_argument("--lr", type=float, default=1e-3, help="at the base width")
    parser.add_argument("--figure", type=Path, help="a file for the figure, such as check.png")
    parser.set_defaults(run=check)


def _add_report(commands: Any) -> None:
    about = "the report of a sweep or of several, or of any table of losses, with report.html"
    parser = commands.add_parser("report", help=about, description=about)
    parser.add_argument(
        "source",
        type=Path,
        nargs="+",
        help="a sweep's folder, several to compare, or .csv, .tsv, .parquet: a row a run",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="the folder for the report of tables (FILE_report) or of several sweeps (A_and_B)",
    )
    looks = parser.add_argument_group("of figures: as the sweep's config says if not given")
    looks.add_argument("--figure-format", help="png, pdf, svg or several: png,pdf")
    looks.add_argument("--figure-size", help="width in inches, or width,height")
    looks.add_argument("--figure-font", help='such as serif, 9 or "serif 9"')
    folder = parser.add_argument_group("of a sweep's folder")
    folder.add_argument("--report", help="its short name; the sweep's own if not given")
    folder.add_argument("--metric", help="what losses are compared by; val_loss if not given")
    folder.add_argument("--where", help="which jobs, by columns of results.csv, such as 'lr < 2'")
    folder.add_argument(
        "--expect", action="append", help="of a coordinate check, such as sp=fail; pass if not said"
    )
    table = parser.add_argument_group("of tables: names of columns, guessed if not given")
    table.add_argument("--size", help="width, number of parameters, or whatever grows")
    tuned = table.add_mutually_exclusive_group()
    tuned.add_argument("--lr", help="the learning rate")
    tuned.add_argument("--hyperparameter", help="what is looked at instead, such as weight_decay")
    table.add_argument("--loss", help="the final loss")
    table.add_argument("--seed", help="tells repetitions apart")
    table.add_argument(
        "--by", type=_names, help="have curves of their own, such as optimizer,depth"
    )
    table.add_argument("--tuned", type=_names, help="tuned too: their best value counts")
    table.add_argument(
        "--log2", action="store_const", const=True, help="the column of --lr holds log2 of it"
    )
    table.add_argument("--figure", type=Path, help="a file for the figure as well, such as lr.pdf")
    parser.set_defaults(run=report)


def _add_reproduce(commands: Any) -> None:
    about = "make figures of papers again, and compare their numbers with what is expected"
    parser = commands.add_parser("reproduce", help=about, description=about)
    parser.add_argument(
        "name",
        nargs="*",
        help="figures, or all; and keys of the config of what is trained, such as seed=7",
    )
    parser.add_argument("--list", action="store_true", help="show all figures")
    parser.add_argument("--size", choices=("tiny", "paper"), help="minutes on a CPU, or for a GPU")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--redraw", action="store_true", default=None, help="from the kept table, no training"
    )
    how.add_argument("--run", dest="redraw", action="store_false", help="train what is missing")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("outputs", "reproduce"),
        help="has a folder for each figure and size, such as two_vectors_tiny; outputs/reproduce",
    )
    parser.add_argument("--data", default="data", help="the folder that FOLDER in commands is")
    docs = parser.add_argument_group("of the docs, in a checkout")
    docs.add_argument("--keep", action="store_true", help="put table and images there")
    docs.add_argument("--figures", action="store_true", help="draw images, say which differ")
    docs.add_argument("--write", action="store_true", help="of --figures: replace these")
    docs.add_argument("--gallery", action="store_true", help="write docs/gallery.md")
    parser.set_defaults(run=reproduce)


def _add_wandb(commands: Any) -> None:
    about = "the results of a project on W&B, as the table of a sweep"
    parser = commands.add_parser("pull", help=about, description=about)
    parser.add_argument("project", help="ENTITY/PROJECT")
    parser.add_argument("--group", help="the name of a sweep's folder; all runs if not given")
    parser.add_argument("--out", type=Path, help="the file; PROJECT.csv if not given")
    parser.set_defaults(run=pull)

    about = "views of a project on W&B: transfer, and coordinates"
    parser = commands.add_parser("workspace", help=about, description=about)
    parser.add_argument("project", help="ENTITY/PROJECT")
    parser.add_argument("--out", type=Path, help="write JSON there, and send nothing")
    parser.set_defaults(run=workspace)


def _add_export(commands: Any) -> None:
    about = "the numbers of a ladder's recommendation, or of a run, as other programs read them"
    numbers = commands.add_parser("export", help=about, description=about)
    numbers.add_argument("folder", type=Path, help="of a ladder (experiment=tune) or of a run")
    numbers.add_argument("--to", required=True, help="hf, torchtitan, megatron or table")
    numbers.add_argument("--out", type=Path, help="folder for the file; FOLDER/export if not given")
    numbers.set_defaults(run=export)


def _add_certificate(commands: Any) -> argparse.ArgumentParser:
    about = "compare a run of a ladder's recommendation with runs at other values: is it the best?"
    parser = commands.add_parser("certificate", help=about, description=about)
    parser.add_argument("run_folders", type=Path, nargs="+", metavar="RUN", help="a run's folder")
    parser.set_defaults(run=certificate)
    return parser


def _add_describe(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("describe", help="print what each tensor of a model is and gets")
    parser.add_argument("build", help="package.module:function, a function width -> nn.Module")
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--base-width", type=int, required=True)
    parser.add_argument("--parametrization", default="mup")
    parser.add_argument("--optimizer", default="adamw")
    parser.add_argument("--lr", type=float, default=1e-3, help="at the base width")
    parser.add_argument("--weight-decay", type=float, default=0.0, help="at the base width")
    parser.add_argument(
        "--tune",
        action="append",
        default=[],
        metavar="NAME.FACTOR=NUMBER",
        help="factor by role or glob, such as hidden.lr=2; may be given several times",
    )
    parser.add_argument(
        "--all-columns", action="store_true", help="on the terminal too; else those that tell"
    )
    parser.set_defaults(run=describe_model)
    return parser


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mupl", description=__doc__)
    parser.add_argument("--version", action="version", version=f"mupl {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    commands.add_parser("train", help="train as train.py does; `mupl train --help` lists the keys")

    rules = commands.add_parser("table", help="print the rules of a parametrization, or of all")
    rules.add_argument("name", nargs="?", help="such as mup; all if none is given")
    rules.add_argument("--optimizer", help="such as adamw, sgd or muon; adam if none is given")
    rules.add_argument("--from", dest="source", help="with --to: where to start")
    rules.add_argument("--to", help="print theta, the shift that leads to this parametrization")
    rules.set_defaults(run=table)

    model = _add_describe(commands)
    _add_check(commands)
    _add_report(commands)
    _add_reproduce(commands)

    state = commands.add_parser("status", help="print how far a sweep is, and who runs its jobs")
    state.add_argument("sweep", type=Path, help="the sweep's folder")
    state.set_defaults(run=sweep_status)

    _add_export(commands)
    compared = _add_certificate(commands)

    listing = commands.add_parser("ls", help="list sweeps: what each swept, how it ended, the best")
    listing.add_argument("folder", type=Path, nargs="?", default=Path("multirun"))
    listing.set_defaults(run=list_sweeps)
    _add_wandb(commands)

    for command in (rules, model, compared, listing):
        command.add_argument("--format", choices=FORMATS, default="rich")
    return parser
