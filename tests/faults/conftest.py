"""The fault suite prints what was tried and what came of it as one table."""

from collections import Counter

import pytest

TRIED: Counter[str] = Counter()
RIGHT: Counter[str] = Counter()


class Tally:
    """Counts faults that were tried, and those after which nothing was lost."""

    def __call__(self, fault: str, wrong: str) -> None:
        TRIED[fault] += 1
        RIGHT[fault] += not wrong
        assert not wrong


@pytest.fixture
def tally() -> Tally:
    return Tally()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TRIED:
        terminalreporter.section("faults: tried, and right afterwards")
        for fault, count in TRIED.items():
            terminalreporter.line(f"{fault:60} {count:4} {RIGHT[fault]:4}")
