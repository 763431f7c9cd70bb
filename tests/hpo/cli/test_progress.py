"""The progress of commands."""

import io
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from hpo.cli.progress import of_steps, of_study
from hpo.records.record import parse
from hpo.study.status import StudyStatus

SAMPLE = Path(__file__).parents[2] / "data" / "run-schema-1.json"


def test_the_line_of_the_last_trial_tells_that_all_are_done():
    text, record = io.StringIO(), parse(SAMPLE, SAMPLE.read_bytes())
    ended = StudyStatus(
        study="s",
        runs=Path("runs"),
        total=3,
        waiting=0,
        running=(),
        complete=3,
        pruned=0,
        failed=0,
        best_trial=0,
        best_val_nll=4.5,
        stopping=None,
    )

    with of_study(Console(file=text)) as show:
        show(replace(ended, waiting=2, complete=1), [record])
        show(ended, [record, record])

    told = [line.partition("[")[2] for line in text.getvalue().splitlines()]
    assert told == [f"{n} of 3 done, best 4.5000]" for n in (1, 2, 3)]


def test_elsewhere_than_on_a_terminal_a_few_plain_lines_tell_how_far_it_is():
    text = io.StringIO()

    with of_steps("frames", Console(file=text)) as step:
        for done in range(1, 49):
            step(done, 48)

    assert text.getvalue().splitlines() == [f"{n} of 48 frames" for n in (12, 24, 36, 48)]


def test_few_steps_are_a_line_each():
    text = io.StringIO()

    with of_steps("cells", Console(file=text)) as step:
        for done in (1, 2, 3):
            step(done, 3)

    assert text.getvalue().splitlines() == ["1 of 3 cells", "2 of 3 cells", "3 of 3 cells"]


def test_a_terminal_shows_a_bar_that_goes_away():
    text = io.StringIO()

    with of_steps("frames", Console(file=text, force_terminal=True, width=80)) as step:
        step(24, 48)

    shown = text.getvalue()
    assert "frames" in shown
    assert "24/48" in shown
    assert "of 48 frames" not in shown
    assert shown.endswith("\x1b[2K")  # the line is erased
