"""The `hpo` command: parse, one call, print.

Heavy imports stand inside the commands, so that `hpo --help` does not wait for torch.
"""

from __future__ import annotations

import errno
import os
import sys
import warnings
from typing import Any

import click

from data_prep.errors import REMEDIES, InputError
from hpo.cli.dashboard import dashboard
from hpo.cli.data import describe, prepare
from hpo.cli.emulators import evaluate, export, sample
from hpo.cli.machine import db, doctor
from hpo.cli.pictures import plot
from hpo.cli.runs import logs, rerun, runs
from hpo.cli.studies import delete, enqueue, launch, rename, status, stop, studies

_BAD_PATH = (
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR, errno.EEXIST),
)
_SECTIONS = {
    "Prepare": (prepare, describe, doctor, db),
    "Search": (launch, stop, enqueue, studies, rename, delete),
    "Look": (status, runs, logs, dashboard, rerun),
    "Use": (export, evaluate, sample, plot),
}
"""The commands in the order in which one needs them."""
WIDEST = 2_000
"""Characters of a line of an error; a file can hold names of any length."""


class _Commands(click.Group):
    """A group whose errors are one sentence: exit code 2 for the user's, 1 for anything else's."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in _SECTIONS.items():
            with formatter.section(title):
                told = [(str(one.name), one.get_short_help_str(60)) for one in commands]
                formatter.write_dl(told)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            vars(error).update(message=_printable(error.message))  # which is "final"
            raise
        except (click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            sys.exit(130)
        except BrokenPipeError:
            sys.stderr.close()
            sys.exit(1)
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            text, code = _told(error)
            click.echo(_printable(text), err=True)
            sys.exit(code)


def _told(error: Exception) -> tuple[str, int]:
    """The sentence about an error and the exit code."""
    if isinstance(error, InputError):
        return f"Error: {error}", 2
    if isinstance(error, OSError) and error.errno in (*_BAD_PATH, *REMEDIES):
        text = f"Error: {error.filename or 'a file'}: {error.strerror}"
        if remedy := REMEDIES.get(error.errno or 0):
            text += f": {remedy}, then run the same command again"
        return text, 2
    return f"Failed: {str(error) or type(error).__name__} (hpo --debug shows where)", 1


def _printable(text: str) -> str:
    """The text without what could move the cursor, since it may quote a stranger's file."""
    lines = (line if len(line) <= WIDEST else f"{line[:WIDEST]} ..." for line in text.split("\n"))
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode()
        for each in "\n".join(lines)
    )


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="hpo-flows", prog_name="hpo")
def main(debug: bool) -> None:
    """Search for, train and export normalizing-flow emulators of population synthesis.

    From a table of simulated mergers to p(M0, M1 | Z, alpha):

    \b
        hpo prepare mergers.csv --out prepared
        hpo launch --set data.path=prepared --trials 30
        hpo export bbh --out emulator
        hpo sample emulator -n 100000 --Z 0.001 --alpha 1.0 --out events.parquet
    """
    warnings.showwarning = _show_warning
    # Workers run the pickles in the folder of the runs: whatever the shell says, not everyone
    # writes there.
    os.umask(os.umask(0o077) | 0o002)


def _show_warning(message: Warning | str, *_where: object, **_more: object) -> None:
    click.echo(_printable(f"Warning: {message}"), err=True)


for _commands in _SECTIONS.values():
    for _command in _commands:
        main.add_command(_command)
