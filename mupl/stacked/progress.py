"""How far stacks are, as bars in a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Show = Callable[[str, int, int], None]  # title, updates done, updates in all

_shown_elsewhere: list[Show] = []  # by the process that started this one, if it does


def bars() -> Progress:
    """Return bars that are shown in a terminal only, and vanish at the end."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, transient=True, disable=not sys.stdout.isatty())


def show_elsewhere(show: Show) -> None:
    """Let `show` be called in this process in place of its own bars."""
    _shown_elsewhere[:] = [show]


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that shows how many updates of a stack are done."""
    if _shown_elsewhere:
        yield lambda done: _shown_elsewhere[0](title, done, total)
        return
    with bars() as shown:
        task = shown.add_task(title, total=total)
        yield lambda done: shown.update(task, completed=done)
