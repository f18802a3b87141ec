"""Signals that end a training: one line says what is kept, the exit code is 128 + the number."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from subprocess import Popen
from types import FrameType
from typing import Any, NoReturn

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """One of `ENDING` has arrived.

    It is no KeyboardInterrupt, as Lightning ends the process on those with exit code 1.

    Attributes:
        text: what is kept, and how to go on; None where it is not known.
    """

    def __init__(self, number: int, text: str | None = None) -> None:
        super().__init__(number)
        self.number = number
        self.text = text


@contextmanager
def raised() -> Iterator[None]:
    """Let the signals of `ENDING` raise `Interrupted` within the block."""
    process = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            raise Interrupted(number)
        # in a process that was forked, such as one that loads data: the usual effect
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    with _handlers(handle):
        yield


@contextmanager
def noted() -> Iterator[Callable[[], int]]:
    """Yield a function that says which of the signals of `ENDING` has arrived, or 0.

    So the block can end where nothing is lost. A second signal has its usual effect.
    """
    arrived = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal arrived
        arrived = number
        restored.close()

    with _handlers(handle) as restored:
        yield lambda: arrived


@contextmanager
def passed_on(process: Popen[Any]) -> Iterator[None]:
    """Pass the first of the signals of `ENDING` on to another process, within the block.

    It must have a session of its own, or a terminal's Ctrl-C would come to it twice. A second
    signal has its usual effect on this process.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        restored.close()
        process.send_signal(number)

    with _handlers(handle) as restored:
        yield


@contextmanager
def _handlers(handle: Callable[[int, FrameType | None], Any]) -> Iterator[ExitStack]:
    """Handle the signals of `ENDING`, until the stack of what was before is closed."""
    with ExitStack() as restored:
        if threading.current_thread() is threading.main_thread():  # Python allows it in no other
            for number in ENDING:
                before = signal.signal(number, handle)
                restored.callback(signal.signal, number, before)
        yield restored


def leave(number: int, text: str) -> NoReturn:
    """End the process with one line on stderr."""
    print(f"{signal.Signals(number).name}: {text}", file=sys.stderr, flush=True)
    sys.exit(128 + number)
