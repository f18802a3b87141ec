"""A page from the tables that a sweep left."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from mupl import __version__
from mupl.files import write_atomically
from mupl.report.losses import Losses
from mupl.report.page.checks import norms_section, unit_scale_section
from mupl.report.page.contents import Contents, of_sweep
from mupl.report.page.coordinates import coordinate_section
from mupl.report.page.elements import Finding, Section
from mupl.report.page.losses import final_losses, loss_curves
from mupl.report.page.prediction import prediction_section
from mupl.report.page.render import render
from mupl.report.page.runs import (
    config_section,
    made_by_section,
    parametrization_section,
    runs_section,
)
from mupl.report.page.transfer import transfer_section

PAGE_FILE = "report.html"
CHECKS = (coordinate_section, norms_section, unit_scale_section)  # of sweeps that compare no losses


def write_sweep_page(sweep_dir: Path, metric: str = "val_loss") -> Path:
    """Write the page of a sweep beside its tables, and return its path.

    A sweep that is not done gets a page of what there is.
    """
    return write_page(of_sweep(sweep_dir, metric))


def write_page(contents: Contents, losses: Losses | None = None) -> Path:
    """Write a page, and return its path.

    Args:
        contents: what it is about.
        losses: which columns of the results are what; by default as a sweep's are.
    """
    if losses is None:
        losses = Losses.of_sweep(contents.results, contents.metric, contents.unit)
    findings, sections = _sections(contents, losses)
    made = datetime.now().astimezone()
    lead = f"{len(contents.results)} runs, {made:%Y-%m-%d %H:%M}"
    footer = f"Made by mupl {__version__}. Charts are drawn by Vega."
    path = contents.folder / PAGE_FILE
    write_atomically(path, render(contents.title, lead, findings, sections, footer))
    return path


def _sections(contents: Contents, losses: Losses) -> tuple[Sequence[Finding], Sequence[Section]]:
    """Make what applies to these runs; a part for which there is nothing is left out."""
    found = [section(contents) for section in CHECKS]
    is_check = any(section for section, _ in found)
    found.append(prediction_section(contents))
    if not is_check:
        tuned = transfer_section(losses)
        found.append(tuned if tuned[0] else final_losses(losses))
        found.append((loss_curves(contents, losses), []))
    found.append((parametrization_section(contents), []))
    found.append(runs_section(contents))
    found.append((config_section(contents), []))
    found.append((made_by_section(contents), []))
    sections = [section for section, _ in found if section]
    findings = [finding for _, said in found for finding in said]
    findings += [Finding(note.removeprefix("warning: "), "warn") for note in contents.notes]
    findings.sort(key=lambda finding: finding.state != "fail")  # what fails comes first
    return findings, sections
