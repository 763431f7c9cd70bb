"""The command that makes a dataset: `hpo prepare`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpo.cli import options
from hpo.cli.options import FILE, FOLDER, PLACE, listed

if TYPE_CHECKING:
    from hpo.records.listing import Format

SUPPORT = (
    "Where a column's values lie: positive, real or LOW:HIGH, one side empty where it is open. "
    "Repeatable."
)
WEIGHTS = "Column that says how much a row counts; rows of weight 0 are left out."
ATOM = "A value that many rows have exactly, such as chi_eff=0. Repeatable."
LATTICE = "Spread the values that were rounded to this step evenly over it. Repeatable."
TABLE = "Table in a file of several (HDF5, FITS, VOTable, zip), such as transients/BBH."
FROM_PATH = (
    "Name of the folder or file of each SOURCE, with {NAME} for each value that it tells, such as "
    "'sevn_output_Z{Z}A{alpha}'."
)
SCATTERED = (
    "Whether conditions are scattered, so that regions stand in for cells, or each combination of "
    "values is a cell. By default the rows tell."
)
PICTURE = "Draw the rows of cells or regions over two conditions, as .png, .pdf or .svg."
SEEDS = "Seeds the split and the shuffle."
TOTALS = (
    "Table of the condition columns and simulated_binaries or simulated_mass [Msun] of each cell, "
    "with which emulators tell merger rates."
)


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...", type=PLACE)
@click.option("--out", type=FOLDER, required=True, help="Folder to be made.")
@click.option("--table", metavar="NAME", help=TABLE)
@click.option("--names", metavar="A,B,...", help="Names of all columns, where a text has none.")
@click.option("--from-path", metavar="PATTERN", help=FROM_PATH)
@click.option("--columns", multiple=True, metavar="OLD=NEW", help="Rename a column. Repeatable.")
@click.option("--events", default="Mass_0,Mass_1", show_default=True, help="Event columns.")
@click.option("--conditions", default="Z,alpha", show_default=True, help="Condition columns.")
@click.option("--weights", metavar="COLUMN", help=WEIGHTS)
@click.option("--support", multiple=True, metavar="NAME=SUPPORT", help=SUPPORT)
@click.option("--unit", multiple=True, metavar="NAME=UNIT", help="Unit of a column. Repeatable.")
@click.option("--atom", "atoms", multiple=True, metavar="NAME=VALUE", help=ATOM)
@click.option("--lattice", multiple=True, metavar="NAME=STEP", help=LATTICE)
@click.option("--where", metavar="EXPRESSION", help="Keep rows such as 'Mass_0 > 3 and Z != 0.03'.")
@click.option("--split", default="0.6,0.2,0.2", show_default=True, help="train,val,test.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help=SEEDS)
@click.option("--totals", type=FILE, metavar="FILE", help=TOTALS)
@click.option("--scattered/--grid", default=None, help=SCATTERED)
@click.option("--drop-invalid", is_flag=True, help="Drop and count bad rows instead of refusing.")
@listed
def prepare(
    sources: tuple[Path, ...],
    out: Path,
    table: str | None,
    names: str | None,
    from_path: str | None,
    columns: tuple[str, ...],
    events: str,
    conditions: str,
    weights: str | None,
    support: tuple[str, ...],
    unit: tuple[str, ...],
    atoms: tuple[str, ...],
    lattice: tuple[str, ...],
    where: str | None,
    split: str,
    seed: int,
    totals: Path | None,
    scattered: bool | None,
    drop_invalid: bool,
    style: Format,
) -> None:
    """Turn simulation tables into a dataset for training.

    SOURCE is a SEVN merger table, a COSMIC bpp table, or any table whose columns are named with
    --columns: text, packed or not, Parquet, Feather, HDF5, FITS, VOTable, or a folder of such.

    \b
        hpo prepare mergers.csv --out prepared
        hpo prepare sevn_output_*/*.csv --out prepared --from-path 'sevn_output_Z{Z}A{alpha}'
        hpo prepare run1.parquet run2.parquet --out prepared --columns m1=Mass_0 --columns m2=Mass_1
        hpo prepare mergers.csv --out prepared --totals simulated.csv
    """
    from data_prep.preparation import page
    from data_prep.preparation.prepare import prepare as prepare_dataset
    from data_prep.tables.source import Reading
    from hpo.cli import progress
    from hpo.emulator import description
    from hpo.records.listing import render

    with progress.of_steps("rows read") as on_progress:
        dataset = prepare_dataset(
            list(sources),
            out,
            event_columns=options.names(events, "--events"),
            condition_columns=options.names(conditions, "--conditions"),
            columns=options.renames(columns),
            weights=weights,
            support=options.once(support, "--support", "positive, =real or =LOW:HIGH"),
            unit=options.once(unit, "--unit", "UNIT"),
            atoms={
                name: [options.number(text, "--atom") for text in texts]
                for name, texts in options.by_column(atoms, "--atom", "VALUE").items()
            },
            lattice={
                name: options.number(text, "--lattice")
                for name, text in options.once(lattice, "--lattice", "STEP").items()
            },
            where=where,
            split=options.fractions(split),
            seed=seed,
            drop_invalid=drop_invalid,
            totals=totals,
            reading=Reading(
                table=table,
                names=None if names is None else options.names(names, "--names"),
                from_path=from_path,
            ),
            scattered=scattered,
            command=shlex.join(["hpo", *sys.argv[1:]]),
            on_progress=on_progress,
        )
    rows = sum(dataset.rows.values())
    summary = {
        "rows": rows,
        **dataset.rows,
        "dropped": sum(dataset.dropped.values()),
        "regions" if dataset.scattered else "cells": len(dataset.cells),
        "bytes before": dataset.bytes_before,
        "bytes after": dataset.bytes_after,
        "bytes/row": round(dataset.bytes_after / rows, 2),
    }
    click.echo(render([summary], style))
    if style == "table":
        lines = page.lines(
            dataset.event_columns, dataset.condition_columns, dataset.weight_column, dataset.ranges
        )
        click.echo("\n" + render(page.shortened(lines), style) + "\n")
        if counts := description.grid(dataset):
            click.echo("rows of each cell\n" + render(counts, style) + "\n")
        if few := description.thin(dataset):
            click.echo(f"Note: {few}.", err=True)
    for note in dataset.notes:
        click.echo(f"Note: {note}.", err=True)
    if dataset.weight_column:
        each = ", ".join(f"{part} {dataset.effective(part):,.1f}" for part in dataset.rows)
        click.echo(f"Note: by {dataset.weight_column.name}, effective rows are {each}.", err=True)
    if style == "table":
        click.echo(f"{out} is ready: hpo launch --set data.path={out}")


@click.command()
@click.argument("source", metavar="PREPARED|EMULATOR")
@click.option("--picture", type=FILE, metavar="FILE", help=PICTURE)
@click.option("--columns", metavar="A,B", help="Conditions of the picture [default: the first].")
@listed
def describe(source: str, picture: Path | None, columns: str | None, style: Format) -> None:
    """Tell what a prepared dataset or an emulator holds.

    Its columns with unit, support and role, rows of each part, cells or regions, and what hpo
    prepare had to say. JSON holds everything; CSV is the table of cells; LaTeX has the same tables
    as the terminal.

    \b
        hpo describe prepared
        hpo describe sample --picture cells.pdf
        hpo describe emulator --format json
    """
    import json

    from data_prep.dataset import Dataset
    from data_prep.preparation import page
    from hpo.emulator import description
    from hpo.records.listing import paragraph, render

    folder = options.prepared(source)
    found = description.of(folder)
    if picture:
        from hpo.pictures.maps.errors import rows_of_cells

        plane = options.names(columns, "--columns") if columns else None
        rows_of_cells(Dataset.read(folder), columns=plane, out=picture)
    if style == "json":
        click.echo(json.dumps(found.as_json(), indent=2))
        return
    if style == "csv":
        click.echo(render(found.flat_cells(), style))
        return
    tables = [page.shortened(found.columns), found.parts, found.listed_cells()]
    shown = [render(rows, style) for rows in tables if rows]
    if style == "table":
        shown.insert(0, paragraph(found.title))
        if len(found.cells) > description.MOST_CELLS:
            more = len(found.cells) - description.MOST_CELLS
            shown.append(f"... and {more} more {found.kind}: --format csv has them all")
        shown += [paragraph(f"Note: {note}.") for note in found.notes]
        shown += [str(picture)] if picture else []
    click.echo("\n\n".join(shown))
