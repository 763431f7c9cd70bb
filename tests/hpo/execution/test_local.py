import os
import signal

import pytest

from hpo.execution import local


def test_an_interrupt_while_workers_are_started_is_not_lost():
    with pytest.raises(KeyboardInterrupt), local._deaf_to_interrupts():
        os.kill(os.getpid(), signal.SIGINT)


def test_what_is_started_hears_no_interrupt_and_this_process_does_again():
    with local._deaf_to_interrupts():
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])

    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
