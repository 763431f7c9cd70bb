"""Words of a command line -> the values, studies and databases that they mean.

Each fault is told in a sentence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from data_prep.errors import DataError, InputError, suggestion

if TYPE_CHECKING:
    import optuna
    from optuna.storages import RDBStorage
    from sqlalchemy.engine import URL

    from data_prep.columns import Column

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
PLACE = click.Path(path_type=Path)
KEYED = {"ignore_unknown_options": True, "allow_extra_args": True}
"""For commands that take `--NAME VALUE` for columns of the user's own data."""

Command = Callable[..., None]


class OfEmulator(click.Command):
    """A command whose help tells of the conditions of the emulator that stands before `--help`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["hpo.words"] = list(args)
        return super().parse_args(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for word in ctx.meta.get("hpo.words", ()):
            if (Path(word) / "emulator.json").is_file():
                with formatter.section(f"Conditions of {word}"):
                    formatter.write_dl(_conditions_of(Path(word)))


def _conditions_of(emulator: Path) -> list[tuple[str, str]]:
    """The options that set the conditions, with what each takes."""
    from models.bundle.files import read_card

    card = read_card(emulator)
    told = []
    for name, unit in card["condition_columns"].items():
        known = card["domain"][name]
        if known and all(isinstance(one, str) for one in known):
            told.append((f"--{name} TEXT", ", ".join(known)))
        else:
            ends = " to ".join(f"{one:g}" for one in known)
            told.append((f"--{name} NUMBER", f"{ends} {unit or ''}".rstrip()))
    return told


def listed(command: Command) -> Command:
    """Give a command `--format`, as its parameter `style`."""
    kinds = click.Choice(["table", "json", "csv", "latex"])
    option = click.option("--format", "style", type=kinds, default="table", help="How to list.")
    return option(command)


def placed(command: Command) -> Command:
    """Give a command `--runs` and `--storage`: where studies keep their folders and database."""
    storage = click.option(
        "--storage",
        metavar="URL",
        help="The study's database [default: HPO_STORAGE, else hpo.db in --runs].",
    )
    runs = click.option(
        "--runs",
        type=FOLDER,
        help="Folder of all runs [default: where those of the study are, else runs].",
    )
    return runs(storage(command))


def planned(command: Command) -> Command:
    """Give a command `--on`, `--workers`, `--set` and `--force-sqlite`, as a launch has them."""
    on = click.option(
        "--on",
        type=click.Choice(["local", "slurm"]),
        default="local",
        show_default=True,
        help="Where the workers are.",
    )
    workers = click.option(
        "--workers",
        type=click.IntRange(min=1),
        help="Workers [default: the study's, else one for each GPU here, or core, at most 8].",
    )
    settings = click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="TABLE.KEY=VALUE",
        help="Change a line of the study. Repeatable.",
    )
    sqlite = click.option(
        "--force-sqlite", is_flag=True, help="Use a SQLite file where its locks may not hold."
    )
    return on(workers(settings(sqlite(command))))


def study_name(reference: str) -> str:
    """A study by its name, or by the file that defines it."""
    if Path(reference).suffix == ".toml":
        from hpo.study.spec import load

        return load(reference).study.name
    return reference


def existing(url: URL) -> URL:
    """The URL, unless it is of a SQLite file that is not there: looking must not make one."""
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        raise InputError(
            f"there is no study database {url.database}: run hpo launch first, or give --runs or "
            "--storage"
        )
    return url


def database(storage: str | None, runs: Path | None, *, reading: bool = True) -> RDBStorage:
    """The database that `--storage` and `--runs` mean, which has to be there."""
    from hpo.storage.address import url_of
    from hpo.storage.open import open_storage

    return open_storage(existing(url_of(storage, runs)), reading=reading)


def opened(reference: str, storage: str | None, runs: Path | None) -> tuple[optuna.Study, Path]:
    """A study to be looked at, and the folder of its trials."""
    from hpo.study.place import folder_of
    from hpo.study.study import load_study

    there = database(storage, runs)
    study, _ = load_study(there, study_name(reference))
    return study, folder_of(there, study, runs)


def prepared(reference: str) -> Path:
    """Folder of a prepared dataset; `sample` is the shipped one."""
    from data_prep.dataset import SAMPLE

    return SAMPLE if reference == "sample" else Path(reference)


def names(text: str, option: str) -> tuple[str, ...]:
    """`a,b` -> `("a", "b")`; an empty text is no name."""
    parts = tuple(part.strip() for part in text.split(",")) if text.strip() else ()
    if not all(parts):
        raise click.UsageError(f"{option} {text!r} holds an empty name")
    return parts


def renames(pairs: Sequence[str]) -> dict[str, str]:
    """`OLD=NEW` each -> what is called what."""
    renamed = {}
    for pair in pairs:
        old, equals, new = (part.strip() for part in pair.partition("="))
        if not (equals and old and new):
            raise click.UsageError(f"--columns {pair!r} must read OLD=NEW")
        renamed[old] = new
    return renamed


def by_column(pairs: Sequence[str], option: str, value: str) -> dict[str, list[str]]:
    """`NAME=VALUE` each -> the values of each column; `value` is what a value is called."""
    said: dict[str, list[str]] = {}
    for pair in pairs:
        name, equals, text = (part.strip() for part in pair.rpartition("="))
        if not (equals and name and text):
            raise click.UsageError(f"{option} {pair!r} must read NAME={value}")
        said.setdefault(name, []).append(text)
    return said


def once(pairs: Sequence[str], option: str, value: str) -> dict[str, str]:
    """`NAME=VALUE` each, every column once."""
    said = by_column(pairs, option, value)
    for name, values in said.items():
        if len(values) > 1:
            raise click.UsageError(f"{option} says {' and '.join(values)} of {name}: say one")
    return {name: text for name, (text,) in said.items()}


def number(text: str, option: str) -> float:
    """The number that an option's value is."""
    try:
        return float(text)
    except ValueError:
        raise click.UsageError(f"{option} needs a number, got {text!r}") from None


def fractions(text: str) -> tuple[float, float, float]:
    """`0.6,0.2,0.2` -> shares of train, val and test."""
    try:
        train, val, test = (float(part) for part in text.split(","))
    except ValueError:
        raise click.UsageError(
            f"--split {text!r} must be three numbers, train,val,test, such as 0.6,0.2,0.2"
        ) from None
    return train, val, test


def ends(
    ctx: click.Context, param: click.Parameter, text: str | None
) -> tuple[float, float] | None:
    """`5,40` -> the ends of an axis."""
    if text is None:
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} must be two numbers, such as 5,40") from None
    if not -math.inf < low < high < math.inf:
        raise click.BadParameter(f"{text!r} must rise from one number to a larger one")
    return low, high


def percents(
    ctx: click.Context, param: click.Parameter, text: str | None
) -> tuple[float, ...] | None:
    """`50,90,99` -> fractions, rising."""
    if text is None:
        return None
    try:
        found = sorted({float(part) / 100 for part in text.split(",")})
    except ValueError:
        found = [0.0]
    if not all(0 < each < 1 for each in found):
        raise click.BadParameter(f"{text!r} must be percents between 0 and 100, such as 50,90")
    return tuple(found)


def at_a_time(
    ctx: click.Context, param: click.Parameter, text: str | None
) -> int | Literal["auto"] | None:
    """`auto`, or a number of trials."""
    from hpo.study import spec

    try:
        if text is None:
            return None
        return spec.at_a_time(int(text) if text.isdecimal() else text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def width(ctx: click.Context, param: click.Parameter, text: str | None) -> float | None:
    """`one` or `two` columns of a journal, or a number -> inches."""
    from hpo.pictures.style import WIDTHS

    if text is None or text in WIDTHS:
        return WIDTHS.get(text or "")
    inches = number(text, "--width") if text.replace(".", "", 1).isdecimal() else 0.0
    if not 1 <= inches <= 40:
        raise click.BadParameter(f"{text!r} must be one, two, or a number of inches from 1 to 40")
    return inches


def conditions(
    words: Sequence[str], columns: Sequence[Column], *, several: bool = False
) -> dict[str, Any]:
    """`--Z 0.001 --channel=CE` -> the value of each condition named, or a list of `several`.

    Raises:
        click.UsageError: For a name that is no condition, a value that is no number, or a text
            that is none of its category.
    """
    known = {column.name: column for column in columns}
    values: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, text = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in known:
            options = [f"--{one}" for one in known]
            hint = f": {suggestion(f'--{name}', options)}" if known else ""
            raise click.UsageError(f"no such option {word!r}{hint}")
        if not equals:
            if not rest:
                raise click.UsageError(f"--{name} needs a value")
            text = rest.pop(0)
        if several:
            texts = [text] if text in (known[name].categories or ()) else text.split(",")
            values[name] = [_value(known[name], one) for one in texts]
        else:
            values[name] = _value(known[name], text)
    return values


def _value(column: Column, text: str) -> Any:
    try:
        return column.value(column.number(text if column.categories else float(text)))
    except DataError as error:
        raise click.UsageError(f"--{error}") from None
    except ValueError:
        raise click.UsageError(f"--{column.name} must be a number, got {text!r}") from None


def missing(values: Mapping[str, float], known: Sequence[str]) -> None:
    """Refuse a call that leaves a condition open, by a click.UsageError."""
    absent = [f"--{name}" for name in known if name not in values]
    if absent:
        raise click.UsageError(f"give {' and '.join(absent)}: the emulator is conditioned on it")


def _enough(ctx: click.Context, param: click.Parameter, value: int) -> int:
    from models.bundle.reliability import LEAST_CATALOGS

    if 0 < value < LEAST_CATALOGS:
        raise click.BadParameter(f"{value} tell nothing: give {LEAST_CATALOGS} or more, or 0")
    return value


catalogs = click.option(
    "--catalogs",
    type=click.IntRange(min=0),
    default=40,
    show_default=True,
    metavar="N",
    callback=_enough,
    help="Catalogues of each size at most, whose posteriors tell for how many events it is good; "
    "0 for none.",
)
