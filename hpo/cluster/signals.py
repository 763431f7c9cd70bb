"""How a process hears that it has to end: a signal raises `HandBack` where it is."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

INSIST_S = 1.0
"""Seconds after which an exception that nobody heard is raised again."""
TERMINAL = frozenset({signal.SIGINT, signal.SIGHUP})
"""Signals that a terminal sends to all processes of a command."""


class HandBack(KeyboardInterrupt):
    """This process has to end. Not an Exception: nothing may take it for a trial's failure."""

    heard = False
    """Set where it is caught: until then it is raised again and again."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"told by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


@contextlib.contextmanager
def handing_back(*numbers: signal.Signals) -> Iterator[None]:
    """The first of these signals raises `HandBack` until that is heard; all later ones do nothing.

    Raised in a finalizer or a callback of a library's, it goes no further: Python prints it. In
    place of submitit's handlers, which requeue the job before the trial is handed back, and do not
    hear SIGTERM.
    """

    def tell(number: int, _frame: object) -> None:
        for one in numbers:
            signal.signal(one, signal.SIG_IGN)
        told = HandBack(number)

        def insist(*_: object) -> None:
            if not told.heard:
                raise told

        signal.signal(signal.SIGALRM, insist)
        signal.setitimer(signal.ITIMER_REAL, INSIST_S, INSIST_S)
        raise told

    # Whoever starts a command with nohup wants no hang-up to end it, nor a Ctrl-C one that a script
    # has in its background.
    deaf = {one for one in TERMINAL if signal.getsignal(one) is signal.SIG_IGN}
    before = {one: signal.signal(one, tell) for one in {*numbers} - deaf}
    before[signal.SIGALRM] = signal.getsignal(signal.SIGALRM)
    try:
        # The launcher starts its workers deaf to the terminal, for submitit's controllers.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINAL)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
