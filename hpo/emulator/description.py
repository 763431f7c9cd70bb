"""What a prepared dataset or an emulator holds, as `hpo describe` tells it.

Facts of an emulator come from its `emulator.json`, which may be of any version: what is not there
is left out. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.cells import name_of
from data_prep.columns import Column
from data_prep.dataset import SPLITS, Cell, Dataset, shown
from data_prep.errors import InputError
from data_prep.preparation import page
from data_prep.words.numbers import counted
from models.bundle import files
from models.bundle.readme import markdown as md
from models.evaluation.cells import CELL_ROWS
from models.layout import MEMBERS, Layout

Row = dict[str, object]
MOST_THIN = 3
"""Thin cells that are named."""
MOST_CELLS = 40
"""Cells that are listed for people; the other formats list all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """Tables of what there is, and sentences about it."""

    title: str
    columns: list[Row]
    """As `page.lines` gives them."""
    parts: list[Row]
    """Rows of train, val and test, and what else is known of each."""
    kind: str
    """What `cells` are: cells or regions."""
    cells: list[Row]
    """Values of the conditions, or their lowest and highest in a list, and rows."""
    notes: tuple[str, ...] = ()
    more: Mapping[str, object]
    """Further facts."""

    def as_json(self) -> Row:
        """Everything."""
        return {
            "title": self.title,
            "columns": self.columns,
            "parts": self.parts,
            self.kind: self.cells,
            "notes": list(self.notes),
            **self.more,
        }

    def flat_cells(self) -> list[Row]:
        """The cells, with a column for each end of a region."""
        return [dict(_flat(row)) for row in self.cells]

    def listed_cells(self) -> list[Row]:
        """As many cells as people read, with a region's ends as one text."""
        return [
            {
                name: f"{value[0]:.4g} to {value[1]:.4g}" if isinstance(value, list) else value
                for name, value in row.items()
            }
            for row in self.cells[:MOST_CELLS]
        ]


def of(folder: Path) -> Description:
    """What is in the folder of a dataset or an emulator.

    Raises:
        InputError: If it is neither.
    """
    if (folder / "dataset.json").exists():
        return of_dataset(Dataset.read(folder), folder)
    if (folder / files.CARD).exists():
        return of_card(files.read_card(folder), folder)
    raise InputError(
        f"{folder} is neither a prepared dataset (it has no dataset.json) nor an emulator (it has "
        f"no {files.CARD}): name the folder that hpo prepare or hpo export made"
    )


def of_dataset(dataset: Dataset, folder: Path) -> Description:
    """What a prepared dataset holds."""
    weighted, kind = dataset.weight_column is not None, "regions" if dataset.scattered else "cells"
    parts: list[Row] = []
    for split in SPLITS:
        part: Row = {"part": split, "rows": dataset.rows[split]}
        if weighted:
            part["effective rows"] = round(dataset.effective(split), 1)
            part["mean weight"] = dataset.mean_weight(split)
        parts.append(part)
    columns = (dataset.event_columns, dataset.condition_columns, dataset.weight_column)
    names = " and ".join(str(source["file"]) for source in dataset.sources[:3])
    more = f" and {len(dataset.sources) - 3} others" if len(dataset.sources) > 3 else ""
    return Description(
        title=f"{folder}: {sum(dataset.rows.values()):,} rows in {len(dataset.cells):,} {kind}, "
        f"of {names}{more}",
        columns=page.lines(*columns, dataset.ranges),
        parts=parts,
        kind=kind,
        cells=[_cell(cell, dataset.condition_columns, weighted) for cell in dataset.cells],
        notes=dataset.notes,
        more={
            "fingerprint": dataset.fingerprint,
            "command": dataset.command,
            "where": dataset.where,
            "dropped": dataset.dropped,
            "sources": list(dataset.sources),
        },
    )


def grid(dataset: Dataset) -> list[Row]:
    """Rows of each cell over two conditions: one down, one across. Nothing for anything else."""
    if dataset.scattered or len(dataset.condition_columns) != 2:
        return []
    first, second = dataset.condition_columns
    rows = {cell.conditions: cell.rows for cell in dataset.cells}
    downs, acrosses = (sorted({cell.conditions[k] for cell in dataset.cells}) for k in range(2))
    heads = {b: f"{second.name} {_text(second.value(b))}" for b in acrosses}
    return [
        {first.name: first.value(a)} | {head: rows.get((a, b)) for b, head in heads.items()}
        for a in downs[:MOST_CELLS]
    ]


def thin(dataset: Dataset) -> str | None:
    """A sentence that names the cells of too few test rows to be measured alone."""
    kind = "region" if dataset.scattered else "cell"
    few = [one for one in dataset.cells if one.effective("test") < CELL_ROWS]
    if not few:
        return None
    few.sort(key=lambda one: one.effective("test"))
    named = "; ".join(shown(name_of(dataset, one)) for one in few[:MOST_THIN])
    more = f" and {len(few) - MOST_THIN} more" if len(few) > MOST_THIN else ""
    return (
        f"{len(few)} of {counted(len(dataset.cells), kind)} have fewer than {CELL_ROWS} test rows, "
        f"too few to measure an emulator there alone: {named}{more}"
    )


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def of_card(card: Mapping[str, Any], folder: Path) -> Description:
    """What an emulator draws, where it holds, and what it was trained on.

    Raises:
        EmulatorError: If the card describes no flow.
    """
    whole = md.mapping(card.get("architecture"))
    flows = md.items(whole.get(MEMBERS)) or [whole]
    try:
        layout = Layout.of(flows[0])
    except (KeyError, TypeError, ValueError) as error:
        path = folder / files.CARD
        raise files.EmulatorError(
            f"{path} describes no flow ({error}): export the emulator again"
        ) from error
    origin, metrics = md.mapping(card.get("provenance")), md.mapping(card.get("metrics"))
    spans = {
        name: (low, high)
        for name, value in md.pairs(md.mapping(origin.get("data")).get("ranges"))
        for low, high in [map(md.number, (md.items(value) + [None, None])[:2])]
        if low is not None and high is not None
    }
    rows, effective = (
        md.mapping(origin.get(name)) for name in ("data_rows", "data_effective_rows")
    )
    cells = [md.mapping(cell) for cell in md.items(metrics.get("cells"))]
    several = f"{len(flows)} flows" if len(flows) > 1 else "one flow"
    return Description(
        title=f"{folder}: an emulator, {several}",
        columns=page.lines(
            layout.event_columns,
            layout.condition_columns,
            None,
            spans | layout.domain,
            turned=layout.config.coordinates != "log",
        ),
        parts=[
            {"part": split, "rows": rows[split]}
            | ({"effective rows": effective[split]} if split in effective else {})
            for split in SPLITS
            if split in rows
        ],
        kind="cells",
        cells=[
            dict(md.mapping(cell.get("conditions"))) | dict(md.mapping(cell.get("rows")))
            for cell in cells
        ],
        more={
            name: value
            for name, value in (*origin.items(), *metrics.items())
            if name in ("study", "trial", "data_fingerprint", "val_nll", "test_nll")
        },
    )


def _cell(cell: Cell, conditions: Sequence[Column], weighted: bool) -> Row:
    row: Row = {}
    for k, (column, value) in enumerate(zip(conditions, cell.conditions, strict=True)):
        if column.categories:
            row[column.name] = column.categories[int(value)]
        else:
            row[column.name] = list(cell.box[k]) if cell.box else value
    row |= {"rows": cell.rows, **{split: getattr(cell, split) for split in SPLITS}}
    return row | ({"effective rows": round(cell.effective(), 1)} if weighted else {})


def _flat(row: Row) -> Iterator[tuple[str, object]]:
    for name, value in row.items():
        if isinstance(value, list):
            yield from ((f"{name} lowest", value[0]), (f"{name} highest", value[1]))
        else:
            yield name, value
