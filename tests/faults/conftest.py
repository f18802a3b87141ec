"""The fault suite prints what was tried and what came of it as one table."""

from collections import Counter

import pytest

FAULT = "fault: "  # begins the name of a property of a test, whose value says if all was right


class Tally:
    """Notes each fault that a test tried, and whether nothing was lost.

    Notes are properties of the test's report, so that workers of pytest-xdist pass them on.
    """

    def __init__(self, properties: list[tuple[str, object]]) -> None:
        self._properties = properties

    def __call__(self, fault: str, wrong: str) -> None:
        self._properties.append((FAULT + fault, not wrong))
        assert not wrong


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    return Tally(request.node.user_properties)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tried: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            if report.when != "call":
                continue
            for name, is_right in report.user_properties:
                if name.startswith(FAULT):
                    tried[name] += 1
                    right[name] += is_right
    if tried:
        terminalreporter.section("faults: tried, and right afterwards")
        for name, count in tried.items():
            terminalreporter.line(f"{name.removeprefix(FAULT):60} {count:4} {right[name]:4}")
