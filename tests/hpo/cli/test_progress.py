"""The progress of commands."""

import io

from rich.console import Console

from hpo.cli.progress import of_steps


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
