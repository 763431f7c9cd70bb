"""docs/troubleshooting.md quotes what the code really says.

Each message in it is either made here, by doing what it is about, or all of its words stand in the
texts of one module of the code. `…` is what differs from case to case.
"""

import ast
import re
import warnings
from pathlib import Path

import pytest
from click.testing import CliRunner

from hpo.cli import main
from models import Emulator
from tests.random_flows import a_flow

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"
MESSAGES = re.findall(r"^```text\n(.+)\n```$", PAGE.read_text(), re.MULTILINE)
FEWEST, SHORTEST = 20, 12
"""Symptoms that the page has at least; characters in a row that a message is known by."""


def texts(path: Path) -> list[str]:
    """The strings of a module, without its docstrings; what a format fills in cuts them."""
    tree = ast.parse(path.read_text())
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        part
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if id(node) not in docstrings
        for part in re.split(r"%[ds]", node.value)
    ]


TEXTS = {
    path: texts(path)
    for package in ("data_prep", "models", "hpo")
    for path in sorted((ROOT / package).rglob("*.py"))
}


def fragments(message: str) -> list[str]:
    """What stands between what differs, the longest first."""
    found = [part for part in message.split("…") if re.search(r"\w", part)]
    return sorted(found, key=len, reverse=True)


def pieces(fragment: str) -> list[str]:
    """A remedy is joined to what was found by a colon, each a text of its own."""
    return [part for part in re.split(r"(?<=\w): (?=[a-z-])", fragment) if re.search(r"\w", part)]


def is_said(message: str) -> bool:
    """Whether one module has all words of the message, in texts as they are."""
    parts = fragments(message)
    assert len(parts[0]) >= SHORTEST, message

    def has(found: list[str], part: str) -> bool:
        return any(part in text for text in found) or (
            len(pieces(part)) > 1
            and all(any(piece.strip() in text for text in found) for piece in pieces(part))
        )

    return any(all(has(found, part) for part in parts) for found in TEXTS.values())


def is_in(message: str, told: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in message.split("…"))
    return re.search(pattern, told, re.DOTALL) is not None


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> dict[str, str]:
    """What the command says in some of the cases, with the name of the case."""
    place = tmp_path_factory.mktemp("troubled")
    (place / "table.csv").write_text("Mass0,Mass_1,Z,alpha\n" + "30,20,0.001,1\n" * 9)
    (place / "bad.csv").write_text("Mass_0,Mass_1,Z,alpha\n" + "30,20,0.001,1\n" * 9 + "-1,2,1,1\n")
    rows = [f"{30 + row},{20 + row},{1 + row},1\n" for row in range(4)]
    (place / "cells.csv").write_text("Mass_0,Mass_1,Z,alpha\n" + "".join(rows))
    (place / "secret").write_text("sqlite:///hpo.db")
    (place / "secret").chmod(0o644)
    Emulator(a_flow()).save(place / "emulator")
    Emulator(a_flow()).save(place / "damaged")
    with (place / "damaged" / "weights.safetensors").open("ab") as file:
        file.write(b"\n")
    cases = {
        "key": ("launch", "quick", "--dry-run", "--set", "training.epoch=3"),
        "column": ("prepare", "table.csv", "--out", "p"),
        "row": ("prepare", "bad.csv", "--out", "p"),
        "cells": ("prepare", "cells.csv", "--out", "p"),
        "slurm": ("launch", "quick", "--on", "slurm"),
        "secret": ("status", "quick"),
        "address": ("status", "quick", "--storage", "postgresql://me:p@ss@host/db"),
        "answer": ("launch", "quick", "--storage", "postgresql://me@127.0.0.1:9/db"),
        "range": ("sample", "emulator", "-n", "3", "--out", "e.csv"),
        "damage": ("sample", "damaged", "-n", "3", "--out", "e.csv"),
        "film": ("plot", "animation", "emulator", "--alpha", "1", "--out", "a.mp4"),
    }
    said = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for name, words in cases.items():
            patch.setenv("PATH", "/nowhere")
            for variable in ("HPO_STORAGE", "HPO_STORAGE_FILE"):
                patch.delenv(variable, raising=False)
            if name == "secret":
                patch.setenv("HPO_STORAGE_FILE", "secret")
            if name == "range":
                low, high = Emulator.load("emulator").domain["Z"]
                words = (*words, "--Z", str(2 * high), "--alpha", "1")
            with warnings.catch_warnings(action="always"):
                result = CliRunner().invoke(main, words)
            assert result.exit_code == (0 if name == "range" else 2), result.output
            said[name] = result.output
    return said


PROVOKED = {
    "key": "did you mean 'epochs'?",
    "column": "if that is it, pass --columns",
    "row": "pass --drop-invalid",
    "cells": "a cell needs 5 rows to be in all parts",
    "slurm": "SQLite's locks do not hold between nodes",
    "secret": "run chmod 600",
    "address": "is not a database URL",
    "answer": "does not answer",
    "range": "what it says there is a guess",
    "damage": "its sha256 differs",
    "film": "needs ffmpeg",
}
"""Words by which the message of each case is found on the page."""


@pytest.mark.parametrize("case", PROVOKED)
def test_a_message_is_what_one_sees_who_does_it(case, told):
    (message,) = [one for one in MESSAGES if PROVOKED[case] in one]

    assert is_in(message, told[case]), told[case]


@pytest.mark.parametrize(
    "message", [pytest.param(one, id=fragments(one)[0].strip()[:50]) for one in MESSAGES]
)
def test_a_message_stands_in_the_code(message):
    if not any(words in message for words in PROVOKED.values()):
        assert is_said(message)


def test_a_message_that_nobody_says_is_found_out():
    assert not is_said("… has no trial … that went well, of … there")
    assert not is_in("… needs ffmpeg; it is not installed", "a.mp4 needs ffmpeg, which is not")


def test_there_are_enough_of_them():
    assert len(set(MESSAGES)) == len(MESSAGES) >= FEWEST
