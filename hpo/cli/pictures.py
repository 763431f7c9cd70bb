"""The commands that draw pictures: plot and its kinds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from data_prep.errors import InputError, suggestion
from hpo.cli import options
from hpo.cli.options import FILE, FOLDER, KEYED, Command, OfEmulator, opened, placed, prepared

if TYPE_CHECKING:
    from hpo.pictures.style import Look
    from models import Emulator

_Decorator = Callable[[Command], Command]
SUFFIXES = (".pdf", ".svg", ".png")


class _Kinds(click.Group):
    """The kinds of pictures, with a sentence for a source that stands before its kind."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        first, second = [*args, "", ""][:2]
        if first not in self.commands and second in self.commands:
            raise click.UsageError(f"the kind comes first: hpo plot {second} {first}")
        return super().resolve_command(ctx, args)


@click.group(cls=_Kinds)
def plot() -> None:
    """Draw a picture of an emulator or a study.

    \b
        hpo plot contours emulator --data prepared --Z 0.001 --alpha 1.0
        hpo plot losses bbh --out losses.png
    """


_WIDTH = click.option(
    "--width",
    metavar="one|two|INCHES",
    callback=options.width,
    help="Of one or two columns of a journal, 3.4 and 7 inches, or any.",
)
_TITLE = click.option("--no-title", is_flag=True, help="Leave the text to the caption.")
_LABEL = click.option(
    "--label", multiple=True, metavar="COLUMN=TEXT", help="Call a column so: 'Mass_0=$m_1$'."
)
_LIMITS = [
    click.option(
        f"--{end}lim", metavar="A,B", callback=options.ends, help=f"Ends of the {where} axis."
    )
    for end, where in (("x", "horizontal"), ("y", "vertical"))
]
_LEVELS = click.option(
    "--levels",
    metavar="P,P",
    callback=options.percents,
    help="Percents of the events that lines enclose [default: 50,90,99].",
)


def _kind(name: str, *more: _Decorator, suffixes: Sequence[str] = SUFFIXES) -> _Decorator:
    """A kind of picture: its file, of its name by default, and what it lets choose of its look."""
    *most, last = suffixes
    out = click.option(
        "--out",
        type=FILE,
        default=f"{name}{suffixes[0]}",
        show_default=True,
        help=f"The picture, a {', '.join(most)} or {last} file.",
    )

    def command_of(command: Command) -> Command:
        @functools.wraps(command)
        def drawn(no_title: bool, label: Sequence[str], **given: Any) -> None:
            from hpo.pictures.style import Look

            keys = {"width", "xlim", "ylim", "levels"} & given.keys()
            chosen = {key: value for key in keys if (value := given.pop(key)) is not None}
            labels = options.once(label, "--label", "TEXT")
            command(look=Look(title=not no_title, labels=labels, **chosen), **given)

        whole: Command = drawn
        every: Sequence[_Decorator] = (out, _WIDTH, _TITLE, _LABEL, *more)
        for option in reversed(every):
            whole = option(whole)
        return whole

    return command_of


def _of_emulator(
    name: str, *more: _Decorator, suffixes: Sequence[str] = SUFFIXES
) -> Callable[[Command], click.Command]:
    """A kind of picture of an emulator, with the emulator and the file as its parameters."""

    def command_of(command: Command) -> click.Command:
        emulator = click.argument("emulator", type=FOLDER)

        @functools.wraps(command)
        def in_context(**given: Any) -> None:
            command(click.get_current_context(), **given)

        whole = emulator(_kind(name, *more, suffixes=suffixes)(in_context))
        return plot.command(name, cls=OfEmulator, context_settings=KEYED)(whole)

    return command_of


_data = click.option(
    "--data", help="Prepared dataset to compare with [default: that of the training]."
)


def _columns(help: str) -> _Decorator:
    return click.option("--columns", metavar="A,B", help=help)


@_of_emulator("contours", *_LIMITS, _LEVELS)
@_data
@_columns("The two event columns, across and up; needed where there are more.")
def contours(
    ctx: click.Context,
    emulator: Path,
    out: Path,
    look: Look,
    data: str | None,
    columns: str | None,
) -> None:
    """Two event columns of an emulator against the data.

    Shows the whole test split, or one cell given as --NAME VALUE.

    \b
        hpo plot contours emulator --data prepared --Z 0.001 --alpha 1.0
    """
    from hpo.pictures.contours import contours

    _against_data(contours, ctx, emulator, data, columns, look, out)


@_of_emulator("corner", _LEVELS)
@_data
@_columns("Event columns, in the order to show [default: all].")
def corner(
    ctx: click.Context,
    emulator: Path,
    out: Path,
    look: Look,
    data: str | None,
    columns: str | None,
) -> None:
    """Every pair of event columns against the data.

    Shows the whole test split, or one cell given as --NAME VALUE.

    \b
        hpo plot corner emulator --out corner.pdf
    """
    from hpo.pictures.corner import corner

    _against_data(corner, ctx, emulator, data, columns, look, out)


@_of_emulator("errors")
@_data
def errors(ctx: click.Context, emulator: Path, out: Path, look: Look, data: str | None) -> None:
    """How far an emulator is from the data, cell by cell.

    The map is over two conditions; the others are fixed by --NAME VALUE.

    \b
        hpo plot errors emulator --data sample --out errors.pdf
    """
    from hpo.pictures.maps.errors import errors

    loaded, at = _loaded(emulator, ctx, look)
    say_if_other_data(loaded, folder := _data_of(data, emulator))
    errors(loaded, folder, conditions=at, look=look, out=out)
    click.echo(str(out))


@_of_emulator("divergence")
@_data
@_columns("The two conditions, across and up; needed where there are more.")
def divergence(
    ctx: click.Context,
    emulator: Path,
    out: Path,
    look: Look,
    data: str | None,
    columns: str | None,
) -> None:
    """How far the density moves from one cell to the others.

    Needs a value of every condition, of a cell or between cells, from which the divergences are.

    \b
        hpo plot divergence emulator --Z 0.001 --alpha 1.0
    """
    from hpo.cli.progress import of_steps
    from hpo.pictures.maps.divergence import divergence

    loaded, at = _loaded(emulator, ctx, look)
    options.missing(at, loaded.condition_columns)
    folder = None
    try:
        folder = _data_of(data, emulator)
    except (InputError, FileNotFoundError):
        click.echo("Note: no data name the cells: taken evenly over the domain.", err=True)
    named = options.names(columns, "--columns") if columns else None
    with of_steps("cells") as step:
        divergence(loaded, folder, conditions=at, columns=named, look=look, step=step, out=out)
    click.echo(str(out))


@_of_emulator("likelihood", *_LIMITS, _LEVELS)
def likelihood(ctx: click.Context, emulator: Path, out: Path, look: Look) -> None:
    """A map of the density at one value of every condition.

    \b
        hpo plot likelihood emulator --Z 0.001 --alpha 1.0
    """
    from hpo.pictures.likelihood import likelihood

    loaded, at = _loaded(emulator, ctx, look)
    options.missing(at, loaded.condition_columns)
    likelihood(loaded, conditions=at, look=look, out=out)
    click.echo(str(out))


@_of_emulator("animation", *_LIMITS, _LEVELS, suffixes=(".gif", ".html", ".mp4"))
def animation(ctx: click.Context, emulator: Path, out: Path, look: Look) -> None:
    """The map of the density while one condition moves.

    Needs a value of every condition but the one that moves.

    \b
        hpo plot animation emulator --Z 0.001 --out alpha.gif
    """
    from hpo.cli.progress import of_steps
    from hpo.pictures.likelihood import animation

    loaded, at = _loaded(emulator, ctx, look)
    with of_steps("frames") as step:
        animation(loaded, conditions=at, look=look, step=step, out=out)
    click.echo(str(out))


@plot.command()
@click.argument("study")
@_kind("losses", *_LIMITS)
@placed
def losses(study: str, out: Path, look: Look, runs: Path | None, storage: str | None) -> None:
    """The losses of a study's runs, epoch by epoch.

    \b
        hpo plot losses bbh --out losses.png
    """
    from hpo.pictures.losses import losses
    from hpo.records.folder import read_all
    from hpo.records.record import RunRecord

    _check_labels(look, ("epoch", "time", "nll"))
    _, folder = opened(study, storage, runs)
    every = [record for _, record in read_all(folder)]
    losses([one for one in every if isinstance(one, RunRecord)], out, look)
    click.echo(str(out))


@plot.command(context_settings=KEYED)
@click.argument("study", metavar="STUDY|RUN")
@click.option("--trial", type=click.IntRange(min=0), help="That trial [default: the best].")
@_kind("learning", _LEVELS, *_LIMITS, suffixes=(*SUFFIXES, ".gif", ".html", ".mp4"))
@_data
@_columns("The two event columns, across and up; needed where there are more.")
@placed
def learning(
    study: str,
    trial: int | None,
    out: Path,
    look: Look,
    data: str | None,
    columns: str | None,
    runs: Path | None,
    storage: str | None,
) -> None:
    """The density as a trial learned it, epoch by epoch.

    Shows the flow after the epochs whose weights were kept (`training.snapshots`) and at its best,
    over the whole test split, or one cell given as --NAME VALUE. The ending of --out says whether
    it is a strip of panels or a film. RUN is the run.json of a single run.

    \b
        hpo plot learning bbh --trial 3 --Z 0.001 --alpha 1.0 --out learning.gif
    """
    from data_prep.dataset import Dataset
    from hpo.cli.progress import of_steps
    from hpo.pictures.learning import learning
    from hpo.records.folder import data_found, read

    path = _run_of(study, trial, storage, runs)
    record = data_found(read(path), path.parent)
    place = prepared(data) if data else Path(record.data.path)
    dataset = Dataset.read(place)
    at = options.conditions(click.get_current_context().args, dataset.condition_columns)
    columns_of = (*dataset.event_columns, *dataset.condition_columns)
    _check_labels(look, [*(column.name for column in columns_of), "epoch", "nll"])
    named = options.names(columns, "--columns") if columns else None
    chosen: Any = {"conditions": at, "columns": named, "look": look, "out": out}
    with of_steps("flows") as step:
        learning(record, path.parent, place, step=step, **chosen)
    click.echo(str(out))


def _run_of(reference: str, trial: int | None, storage: str | None, runs: Path | None) -> Path:
    """The run.json of a study's trial, by default of the best; one that is named is taken."""
    from hpo.emulator import choice
    from hpo.records.record import NAME
    from hpo.study.study import trial_name

    if Path(reference).suffix == ".json":
        if trial is not None:
            raise click.UsageError("--trial chooses in a study")
        return Path(reference)
    found, folder = opened(reference, storage, runs)
    best = choice.best(found, folder)[0].folder if trial is None else folder / trial_name(trial)
    return best / NAME


def _loaded(folder: Path, ctx: click.Context, look: Look) -> tuple[Emulator, dict[str, Any]]:
    """The emulator, and the values of its conditions that were given as `--NAME VALUE`."""
    from models import Emulator

    emulator = Emulator.load(folder)
    _check_labels(look, [*emulator.event_columns, *emulator.condition_columns])
    return emulator, options.conditions(ctx.args, emulator.module.condition_columns)


def _check_labels(look: Look, known: Sequence[str]) -> None:
    for name in look.labels:
        if name not in known:
            raise click.UsageError(f"--label: there is no {name!r}: {suggestion(name, known)}")


def _against_data(
    draw: Callable[..., Path],
    ctx: click.Context,
    emulator: Path,
    data: str | None,
    columns: str | None,
    look: Look,
    out: Path,
) -> None:
    loaded, at = _loaded(emulator, ctx, look)
    say_if_other_data(loaded, folder := _data_of(data, emulator))
    named = options.names(columns, "--columns") if columns else None
    draw(loaded, folder, conditions=at, columns=named, look=look, out=out)
    click.echo(str(out))


def _data_of(data: str | None, emulator: Path) -> Path:
    """The named dataset, else the one that the bundle's own record names."""
    from hpo.records.folder import data_found, read
    from hpo.records.record import NAME

    if data:
        return prepared(data)
    folder = Path(data_found(read(emulator / NAME), emulator).data.path)
    if not folder.is_dir():
        raise InputError(f"{folder}, on which {emulator} was trained, is not here: give --data")
    return folder


def say_if_other_data(emulator: Emulator, folder: Path) -> None:
    """Note that the emulator was trained on another dataset, if it was."""
    from data_prep.dataset import Dataset

    trained_on = emulator.card.get("provenance", {}).get("data_fingerprint")
    if trained_on != Dataset.read(folder).fingerprint:
        click.echo(f"Note: {folder} is not the dataset that the emulator was trained on.", err=True)
