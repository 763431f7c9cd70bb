"""What README and the documentation show: every command parses, and what can run here does.

The tutorial is run from an empty folder; every other page in a copy of what it leaves behind, with
a table of mergers beside it. `<!-- only parsed -->` above a block says that it cannot run here.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pytest
from click.testing import CliRunner
from random_flows import a_flow

from data_prep.columns import SAMPLE, Dataset
from data_prep.stream import read_split
from hpo import spec
from hpo.cli import main
from hpo.cli.options import KEYED
from models import Emulator
from models.mixture import Mixture

ROOT = Path(__file__).resolve().parents[1]
TUTORIAL = ROOT / "docs" / "tutorial.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
BLOCK = re.compile(r"(<!-- only parsed[^>]*-->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`hpo ([^`]+)`")
HELP = re.compile(r"^\s+hpo (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    runs: bool

    @property
    def commands(self) -> list[list[str]]:
        """Its `hpo` commands, as words without `hpo`."""
        lines = [line[2:] for line in self.text.splitlines() if line.startswith("$ hpo ")]
        return [shlex.split(line, comments=True)[1:] for line in lines]


def blocks(page, *languages) -> list[Block]:
    found = [Block(kind, text, not only) for only, kind, text in BLOCK.findall(page.read_text())]
    return [block for block in found if block.language in languages]


def pages_with(*languages) -> list:
    found = [page for page in PAGES if any(block.runs for block in blocks(page, *languages))]
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in found]


def named(values) -> list:
    return [pytest.param(value, id=" ".join(value)[:70]) for value in values]


def shown() -> Iterator[list[str]]:
    """Every command in the blocks of all pages, and in the help of all commands."""
    for page in PAGES:
        for block in blocks(page, "console"):
            yield from block.commands
    for _, command in commands(main):
        yield from (shlex.split(line) for line in HELP.findall(command.help or ""))


def commands(group, path=()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, group
    if isinstance(group, click.Group):
        for name, command in group.commands.items():
            yield from commands(command, (*path, name))


def parse(group: click.Group, words: list[str]) -> None:
    """As click does, down to the command, without calling it.

    Raises:
        click.UsageError: For a command, an argument or an option that is not there.
    """
    name, *rest = words
    command = group.commands.get(name)
    if command is None:
        raise click.UsageError(f"no command {name!r}")
    if isinstance(command, click.Group):
        parse(command, rest)
    else:
        command.make_context(name, rest, parent=click.Context(group))


@pytest.mark.parametrize("words", named({" ".join(w): w for w in shown()}.values()))
def test_a_command_that_is_shown_is_one_of_ours(words):
    parse(main, words)


def test_a_command_that_is_not_ours_does_not_parse():
    for words in (["lunch"], ["launch", "--trails", "3"], ["status", "a", "b"], ["db", "x"]):
        with pytest.raises(click.UsageError):
            parse(main, words)


@pytest.mark.parametrize("page", [pytest.param(p, id=str(p.relative_to(ROOT))) for p in PAGES])
def test_commands_in_the_text_have_the_options_that_they_are_said_to_have(page):
    known = dict(commands(main))
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for said in INLINE.findall(prose):
        words = said.split()
        path = tuple(words[:2]) if tuple(words[:2]) in known else tuple(words[:1])
        if path[0].startswith("-") or path[0].isupper():
            path = ()
        assert path in known, f"hpo {said}"
        if known[path].context_settings != KEYED:
            options = {word.partition("=")[0] for word in words if word.startswith("--")}
            have = {name for each in known[path].params for name in each.opts} | {"--help"}
            assert options <= have, f"hpo {said}"


@pytest.mark.parametrize("page", pages_with("console"))
def test_other_commands_name_what_is_there(page):
    """Targets of make, and scripts."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for block in blocks(page, "console"):
        assert set(re.findall(r"^\$ make (\w+)", block.text, re.MULTILINE)) <= targets
        for script in re.findall(r"^\$ .*?python ([\w/]+\.py)", block.text, re.MULTILINE):
            assert (ROOT / script).is_file(), script


@pytest.mark.parametrize("page", pages_with("toml"))
def test_a_study_file_that_is_shown_can_be_read(page):
    """Whole, or with the name that every study has."""
    for block in blocks(page, "toml"):
        tables = {"study": {"name": "shown"}} | tomllib.loads(block.text)

        assert spec.parse(tables, source=str(page)).study.name


@pytest.mark.parametrize("page", pages_with("python"))
def test_python_that_is_shown_compiles(page):
    for block in blocks(page, "python"):
        compile(block.text, str(page), "exec")


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """The folder of someone who went through the tutorial, with a table and its totals beside."""
    folder = tmp_path_factory.mktemp("desk")
    part = read_split(SAMPLE, "val")
    columns = np.concatenate([part.events, part.conditions], axis=1).astype("f8").T
    names = ("Mass_0", "Mass_1", "Z", "alpha")
    pa_csv.write_csv(pa.table(dict(zip(names, columns, strict=True))), folder / "mergers.csv")
    cells = np.unique(part.conditions.astype("f8"), axis=0)
    totals = {"Z": cells[:, 0], "alpha": cells[:, 1], "simulated_binaries": [40_000] * len(cells)}
    pa_csv.write_csv(pa.table(totals), folder / "totals.csv")
    with pytest.MonkeyPatch.context() as patch:
        run(TUTORIAL, folder, patch)
    return folder


def run(page, folder, patch):
    """Do what a page says, in its order, as one who types it all into one session."""
    patch.chdir(folder)
    patch.delenv("HPO_STORAGE", raising=False)
    session: dict[str, object] = {}
    for block in blocks(page, "console", "python"):
        if not block.runs:
            continue
        if block.language == "python":
            exec(compile(block.text, str(page), "exec"), session)
        for words in block.commands:
            code, told = typed(words)
            assert code == 0, f"hpo {shlex.join(words)}\n{told}"


def typed(words):
    """Exit code and output of a command, in this process where it starts no other."""
    if words[0] != "launch":
        result = CliRunner().invoke(main, words)
        return result.exit_code, result.output
    hpo = [sys.executable, "-m", "hpo.cli", *words]
    done = subprocess.run(hpo, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [one for one in pages_with("console", "python") if one.values[0] != TUTORIAL]
)
def test_what_a_page_shows_runs(page, desk, tmp_path, monkeypatch):
    place = shutil.copytree(desk, tmp_path / "desk")

    run(page, place, monkeypatch)


@pytest.mark.slow
def test_the_tutorial_leaves_what_it_says(desk):
    assert Emulator.load(desk / "emulator").domain["Z"] == pytest.approx((1e-4, 6e-3))
    for name in ("losses.png", "contours.png", "events.parquet"):
        assert (desk / name).stat().st_size > 1000


@pytest.mark.parametrize("kind", ["single", "ensemble"])
def test_the_fields_of_an_emulator_json_are_those_that_are_listed(tmp_path, kind):
    flow = a_flow() if kind == "single" else Mixture([a_flow(), a_flow(seed=1)])
    card = json.loads((Emulator(flow).save(tmp_path / "e") / "emulator.json").read_text())

    text = (ROOT / "docs" / "reference" / "files.md").read_text().partition("## emulator.json")[2]
    listed = re.findall(r"^\| `(\w+)` \|", text.partition("\n### ")[0], re.MULTILINE)
    assert {*listed} - {"efficiency", "license", "authors", "citation"} == set(card)


def test_the_fields_of_a_dataset_json_are_those_that_are_told():
    stored = json.loads((SAMPLE / "dataset.json").read_text())

    assert set(stored) - {"schema"} <= set(Dataset.__dataclass_fields__)
