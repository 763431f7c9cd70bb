"""The command that draws pictures: plot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from data_prep.errors import InputError
from hpo.cli import options
from hpo.cli.options import FILE, KEYED, OfEmulator, opened, placed, prepared

if TYPE_CHECKING:
    from models import Emulator


@click.command(cls=OfEmulator, context_settings=KEYED)
@click.argument("source", metavar="EMULATOR|STUDY")
@click.argument(
    "kind",
    type=click.Choice(
        ["contours", "corner", "likelihood", "animation", "divergence", "errors", "losses"]
    ),
)
@click.option(
    "--out",
    type=FILE,
    required=True,
    help="A .png, .pdf or .svg file; .gif, .html or .mp4 of an animation.",
)
@click.option("--data", help="Prepared dataset to compare with [default: that of the training].")
@click.option(
    "--columns",
    metavar="A,B",
    help="Event columns of contours or a corner; conditions of a divergence [default: all].",
)
@placed
@click.pass_context
def plot(
    ctx: click.Context,
    source: str,
    kind: str,
    out: Path,
    data: str | None,
    columns: str | None,
    runs: Path | None,
    storage: str | None,
) -> None:
    """Draw a picture of an emulator or a study.

    Of an emulator against data its `contours`, a `corner` of all event columns, or its `errors` in
    each cell; its `likelihood` map or an `animation` of it; the `divergence` of its densities; of a
    study its `losses`.

    Contours and corner are drawn for the whole test split, or for one cell given as --NAME VALUE. A
    likelihood map needs a value of every condition, and so does a divergence, which is from the
    density there to the density of each cell. An animation needs all but the one that moves. Errors
    are shown over two conditions, the others fixed.

    \b
        hpo plot emulator contours --data prepared --Z 0.001 --alpha 1.0 --out contours.pdf
        hpo plot emulator corner --out corner.pdf
        hpo plot emulator errors --data sample --out errors.pdf
        hpo plot emulator divergence --Z 0.001 --alpha 1.0 --out divergence.pdf
        hpo plot emulator likelihood --Z 0.001 --alpha 1.0 --out likelihood.png
        hpo plot emulator animation --Z 0.001 --out alpha.gif
        hpo plot bbh losses --out losses.png
    """
    if columns and kind not in ("contours", "corner", "divergence"):
        raise click.UsageError(f"--columns says nothing to {kind}")
    if kind == "losses":
        from hpo.pictures.losses import losses
        from hpo.records.folder import read_all
        from hpo.records.record import RunRecord

        options.conditions(ctx.args, ())
        _, folder = opened(source, storage, runs)
        every = [record for _, record in read_all(folder)]
        losses([one for one in every if isinstance(one, RunRecord)], out)
        click.echo(str(out))
        return
    from models import Emulator

    loaded = Emulator.load(Path(source))
    at = options.conditions(ctx.args, loaded.module.condition_columns)
    if kind in ("likelihood", "divergence"):
        options.missing(at, loaded.condition_columns)
    named = options.names(columns, "--columns") if columns else None
    _plot(loaded, kind, at, named, lambda: _data_of(data, Path(source)), out)
    click.echo(str(out))


def _plot(
    emulator: Emulator,
    kind: str,
    at: Mapping[str, float],
    columns: tuple[str, ...] | None,
    data: Callable[[], Path],
    out: Path,
) -> None:
    from hpo.cli.progress import of_steps
    from hpo.pictures import contours, corner, divergence, errors, likelihood

    if kind == "likelihood":
        likelihood.likelihood(emulator, conditions=at, out=out)
    elif kind == "animation":
        with of_steps("frames") as step:
            likelihood.animation(emulator, conditions=at, step=step, out=out)
    elif kind == "divergence":
        folder = None
        try:
            folder = data()
        except (InputError, FileNotFoundError):
            click.echo("Note: no data name the cells: taken evenly over the domain.", err=True)
        with of_steps("cells") as step:
            divergence.divergence(
                emulator, folder, conditions=at, columns=columns, step=step, out=out
            )
    else:
        say_if_other_data(emulator, folder := data())
        if kind == "errors":
            errors.errors(emulator, folder, conditions=at, out=out)
        else:
            draw = corner.corner if kind == "corner" else contours.contours
            draw(emulator, folder, conditions=at, columns=columns, out=out)


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
