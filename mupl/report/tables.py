"""The report of tables of losses, wherever they come from."""

from collections.abc import Sequence
from pathlib import Path

from mupl.analysis.loss_tables import Columns, read_losses
from mupl.errors import ConfigError
from mupl.figures import transfer as figures
from mupl.figures.look import styled
from mupl.report.common import print_lines, save
from mupl.report.hyperparameter_transfer import plot, report_tables
from mupl.report.losses import Losses
from mupl.report.page.contents import Contents
from mupl.sweep.reports import write_page


def table_transfer(
    files: Sequence[Path],
    columns: Columns | None = None,
    out: Path | None = None,
    figure: Path | None = None,
) -> int:
    """Report on tables of losses, wherever they come from, as on a sweep.

    Args:
        files: read by `mupl.analysis.loss_tables.read_losses`.
        columns: which is what.
        out: the folder for `best.csv`, `transfer.json` and the figure; by default in the working
            folder, named after the first file.
        figure: a file for the figure on one page as well.

    Returns:
        1 if the figure failed, else 0.
    """
    table = read_losses(files, columns)
    out = out or Path(f"{files[0].stem}_report")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: no such folder can be made ({error.strerror})") from error
    print_lines(table.notes, files[0])
    losses = Losses(table.results, table.loss, table.size, table.x)
    report_tables(losses, out)
    print(f"{len(table.results)} runs; the report is in {out}")
    if figure is not None:
        _plot_one_page(losses, figure)
    code = plot(losses, out)
    title = " and ".join(file.name for file in files)
    contents = Contents(title, table.results, table.loss, out, notes=table.notes)
    write_page("write_page", contents, losses)
    return code


def _plot_one_page(losses: Losses, file: Path) -> None:
    size = losses.size_or_width
    try:
        with styled():
            plotted = figures.plot_hyperparameter_transfer(
                losses.results, losses.metric, size, losses.x
            )
            save(plotted, [file])
    except (OSError, ValueError) as error:  # no such folder, or format of figures
        raise ConfigError(f"--figure {file}: {' '.join(str(error).split())}") from error
