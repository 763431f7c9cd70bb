"""What the place of a file tells: values in the names of folders, and the tables in a folder."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

from data_prep.errors import DataError

PACKED = ("gz", "bz2", "xz", "zst", "lz4", "zip")
TABLES = (
    "csv", "tsv", "txt", "dat", "ecsv", "parquet", "pq", "feather", "arrow", "ipc", "h5", "hdf5",
    "hdf", "fits", "fit", "vot", "votable", "xml",
)  # fmt: skip
"""Endings of the names of tables."""
NEAR = 3
"""Names of a path, from its end, in which a pattern is looked for to be proposed."""
_SEVN = {"A": "alpha"}
_ENDING = re.compile(rf"(?i)\.({'|'.join(TABLES)})(?:\.(?:{'|'.join(PACKED)}))?$")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def tables_in(path: Path) -> list[Path]:
    """The file itself, or the tables in a folder and the folders below it, in order.

    Raises:
        DataError: If a folder holds no table, or files of more than one kind.
    """
    if not path.is_dir():
        return [path]
    found = [
        each
        for each in sorted(path.rglob("*"))
        if _ENDING.search(each.name)
        and each.is_file()
        and not any(part.startswith((".", "_")) for part in each.relative_to(path).parts)
    ]
    if not found:
        raise DataError(f"{path} is a folder without tables: name the files of one simulation")
    kinds = Counter(_kind(each) for each in found)
    if len(kinds) > 1:
        kind, _ = kinds.most_common(1)[0]
        first = next(each for each in found if _kind(each) == kind).relative_to(path)
        names = "/".join(["*"] * len(first.parts))
        raise DataError(
            f"{path} holds files of several kinds ({', '.join(sorted(kinds))}): name the tables, "
            f"for instance {path}/{names}.{kind}"
        )
    return found


def partitions(path: Path) -> dict[str, float | str]:
    """Values of the folders called `NAME=VALUE` in a path, as Hive, Spark and Dask write them."""
    pairs = (part.partition("=") for part in path.parts[:-1] if part.count("=") == 1)
    return {name: _value(unquote(value)) for name, _, value in pairs if name}


def matched(path: Path, pattern: str) -> dict[str, float | str]:
    """Values in the names of a file and of the folders that hold it.

    Args:
        path: Of the file.
        pattern: The whole name of a folder or file, or of several between slashes, with `{NAME}`
            for each value and `*` for what does not matter. A file's ending can be left out.

    Raises:
        DataError: If the path does not match the pattern, or the pattern has no value to tell.
    """
    names = re.findall(r"\{([^{}]+)\}", pattern)
    if not names or re.search(r"\}[{*]|\*\{", pattern):
        raise DataError(
            f"--from-path {pattern!r} must have {{NAME}} for each value, with other text between "
            "two of them, such as 'sevn_output_Z{Z}A{alpha}'"
        )
    places = list(_places(path.absolute(), pattern.strip("/").count("/") + 1))
    for values in (_NUMBER.pattern, r"[^/]+?"):  # numbers first: 1e-4A2 is 1e-4, then A
        rule = re.compile(_rule(pattern.strip("/"), values))
        for place in places:
            if match := rule.fullmatch(place):
                told = dict(zip(dict.fromkeys(names), match.groups(), strict=True))
                return {name: _checked(path, name, text) for name, text in told.items()}
    raise DataError(
        f"{path} does not match --from-path {pattern!r}, which would be the name of a folder or "
        f"file such as {re.sub(r'[{][^{}]+[}]', '0.001', pattern)!r}: {_remedy(path, names)}"
    )


def pattern_with(path: Path, name: str) -> str | None:
    """A pattern by which the name of a folder or file seems to tell the value of `name`.

    Each word before a number is the name of one, as in `Z0.001`; SEVN writes alpha as A.
    """
    said = re.compile(rf"([A-Za-z]+)([_=]?){_NUMBER.pattern}")
    for part in path.absolute().parts[: -NEAR - 1 : -1]:
        bare = _ENDING.sub("", part)
        if name in {_SEVN.get(word[1], word[1]) for word in said.finditer(bare)}:
            return said.sub(
                lambda word: f"{word[1]}{word[2]}{{{_SEVN.get(word[1], word[1])}}}", bare
            )
    return None


def _rule(pattern: str, values: str) -> str:
    """The pattern as a regular expression; a name that is there twice has one value."""
    groups: dict[str, int] = {}
    rule = ""
    for piece in re.split(r"(\{[^{}]+\}|\*)", pattern):
        if piece == "*":
            rule += "[^/]*"
        elif piece[:1] == "{" and piece in groups:
            rule += rf"\{groups[piece]}"
        elif piece[:1] == "{":
            groups[piece] = len(groups) + 1
            rule += f"({values})"
        else:
            rule += re.escape(piece)
    return rule


def _places(path: Path, length: int) -> Iterator[str]:
    """So many names in a row, from the file outwards; the file's without its ending first."""
    parts = path.parts
    for end in range(len(parts), length - 1, -1):
        last = parts[end - 1]
        for name in dict.fromkeys((_ENDING.sub("", last), last)):
            yield "/".join((*parts[end - length : end - 1], name))


def _value(text: str) -> float | str:
    """A number where it is one. 0002 is none: it can mean 2, or 0.0002."""
    if _NUMBER.fullmatch(text) and not re.match(r"[-+]?0\d", text):
        return float(text)
    return text


def _checked(path: Path, name: str, text: str) -> float | str:
    if re.fullmatch(r"0\d+", text):
        raise DataError(
            f"{path} has {name} = {text!r} by --from-path, which can be {int(text)} or 0.{text}: "
            "rename the folder so that it has the number"
        )
    return _value(text)


def _remedy(path: Path, names: Sequence[str]) -> str:
    """The pattern that would match, where the numbers in a name are as many as the values."""
    for part in path.absolute().parts[: -NEAR - 1 : -1]:
        numbers = list(_NUMBER.finditer(_ENDING.sub("", part)))
        if len(numbers) == len(names):
            pieces, end = [], 0
            for match, name in zip(numbers, names, strict=True):
                pieces += [part[end : match.start()], f"{{{name}}}"]
                end = match.end()
            return f"for {part!r} it is --from-path '{''.join(pieces)}{part[end:]}'"
    return "write the whole name, with {NAME} where a value is"


def _kind(path: Path) -> str:
    """The ending of a table's name, without that of its packing."""
    match = _ENDING.search(path.name)
    assert match
    return match[1].lower()
