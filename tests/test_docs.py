"""What README and the documentation show: every command parses, and what can run here does.

The tutorial is run from an empty folder; every other page in a copy of what it leaves behind, with
tables of mergers beside it. A block with a title is a file of that name. A line above a block says
what is special about it:

    <!-- tests add: OPTIONS -->    what trains, and scripts, get these options, to take less time
    <!-- run by tests/FILE.py -->  it is run there, with what it needs
    <!-- only parsed: WHY -->      it is run nowhere
"""

import importlib.util
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from onnx.reference import ReferenceEvaluator

from data_prep.dataset import SAMPLE, Dataset
from data_prep.preparation.prepare import prepare
from data_prep.stream import read_split
from hpo.cli import main
from hpo.cli.options import KEYED
from hpo.study import spec
from models import Emulator
from models.bundle.ensemble import Ensemble
from tests.random_flows import a_flow

ROOT = Path(__file__).resolve().parents[1]
TUTORIAL = ROOT / "docs" / "tutorial.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
BLOCK = re.compile(
    r"(?:<!-- (only parsed|run by|tests add):? ([^>]*?) -->\n)?"
    r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
COMMAND = re.compile(r"^\$ (hpo|python examples/\S+\.py) (.+)$", re.MULTILINE)
INLINE = re.compile(r"`hpo ([^`]+)`")
HELP = re.compile(r"^\s+hpo (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    special: str
    said: str
    language: str
    title: str
    text: str

    @property
    def runs(self) -> bool:
        """Whether it is run by the tests of this file."""
        return self.special in ("", "tests add")

    @property
    def calls(self) -> list[list[str]]:
        """Its commands that are run, as words: `hpo`, or a script of `examples/`, comes first."""
        more = shlex.split(self.said) if self.special == "tests add" else []
        found = []
        for name, line in COMMAND.findall(self.text):
            words = shlex.split(line, comments=True)
            is_long = name != "hpo" or words[0] == "launch" or "--train-on" in words
            found.append([name.split()[-1], *words, *(more if is_long else [])])
        return found

    @property
    def commands(self) -> list[list[str]]:
        """Its `hpo` commands, as words without `hpo`."""
        return [words for name, *words in self.calls if name == "hpo"]


def blocks(page, *languages) -> list[Block]:
    """Those of a page in these languages; all without any."""
    found = [Block(*groups) for groups in BLOCK.findall(page.read_text())]
    return [block for block in found if not languages or block.language in languages]


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


def test_what_is_run_elsewhere_is_named_there():
    """By the page that it stands on, or by each script."""
    found = [(page, one) for page in PAGES for one in blocks(page) if one.special == "run by"]
    for page, block in found:
        text = (ROOT / block.said).read_text()
        scripts = re.findall(r"examples/(\w+\.py)", block.text)
        assert page.name in text or (scripts and all(name in text for name in scripts))
    assert found


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
    """The folder of someone who went through the tutorial, with tables of their own beside."""
    folder = tmp_path_factory.mktemp("desk")
    parts = [read_split(SAMPLE, split) for split in ("val", "test")]
    columns = np.concatenate([np.hstack([one.events, one.conditions]) for one in parts]).astype(
        "f8"
    )
    mergers = dict(zip(("Mass_0", "Mass_1", "Z", "alpha"), columns.T, strict=True))
    rows = len(columns)
    spin = np.linspace(-1, 1, rows)
    others = {
        "chi_eff": np.where(abs(spin) < 0.5, 0, spin),
        "sigma_kick": np.resize([100.0, 265.0], rows),
        "tau": 1 + spin**2,
        "x": 2 + spin,
        **{name: np.round(columns[:, k]) for k, name in enumerate(("M1", "M2"))},
    }
    pa_csv.write_csv(pa.table(mergers | others), folder / "mergers.csv")
    pq.write_table(pa.table(mergers), folder / "bbh_cosmic.parquet")
    other = pa.table(mergers).rename_columns(["m1", "m2", "Z", "alpha"])
    pq.write_table(other.slice(0, 5_000), folder / "run1.parquet")
    pq.write_table(other.slice(5_000), folder / "run2.parquet")
    cells = np.unique(columns[:, 2:], axis=0)
    totals = {"Z": cells[:, 0], "alpha": cells[:, 1], "simulated_binaries": [40_000] * len(cells)}
    pa_csv.write_csv(pa.table(totals), folder / "totals.csv")
    prepare([folder / "mergers.csv"], folder / "prepared", command="hpo prepare mergers.csv")
    with pytest.MonkeyPatch.context() as patch:
        run(TUTORIAL, folder, patch)
    return folder


def run(page, folder, patch):
    """Do what a page says, in its order, as one who types it all into one session."""
    patch.chdir(folder)
    patch.delenv("HPO_STORAGE", raising=False)
    session: dict[str, object] = {}
    for block in blocks(page):
        if not block.runs:
            continue
        if block.title:
            Path(block.title).write_text(block.text)
        elif block.language == "python":
            if "import onnxruntime" in block.text and not importlib.util.find_spec("onnxruntime"):
                stand_in = types.SimpleNamespace(InferenceSession=ReferenceEvaluator)
                patch.setitem(sys.modules, "onnxruntime", stand_in)
            exec(compile(block.text, str(page), "exec"), session)
        elif block.language == "console":
            for words in block.calls:
                code, told = typed(words)
                assert code == 0, f"{shlex.join(words)}\n{told}"


def typed(words):
    """Exit code and output of a command, in this process where it starts no other."""
    if words[:2] in (["hpo", "export"], ["hpo", "evaluate"]) and "--catalogs" not in words:
        # In sum minutes, for what test_reliability.py and test_coverage.py do once.
        words = [*words, "--catalogs", "0"]
    if words[0] == "hpo" and words[1] not in ("launch", "dashboard"):
        result = CliRunner().invoke(main, words[1:])
        return result.exit_code, result.output
    script = ["-m", "hpo.cli"] if words[0] == "hpo" else [ROOT / words[0]]
    with Path("told.txt").open("w") as told:
        begun = subprocess.Popen(
            [sys.executable, *script, *words[1:]], stdout=told, stderr=subprocess.STDOUT
        )
        if words[1] == "dashboard":  # it runs until it is told to end
            while begun.poll() is None and "Ctrl-C ends it" not in Path("told.txt").read_text():
                time.sleep(0.1)
            begun.send_signal(signal.SIGINT)
        code = begun.wait(timeout=500)
    return code, Path("told.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [one for one in pages_with("console", "python") if one.values[0] != TUTORIAL],
)
def test_what_a_page_shows_runs(page, desk, tmp_path, monkeypatch):
    place = shutil.copytree(desk, tmp_path / "desk")
    if "--out prepared" in page.read_text():
        shutil.rmtree(place / "prepared")
    if page.name in ("README.md", "inference.md"):  # which make one of their own
        shutil.rmtree(place / "emulator")

    run(page, place, monkeypatch)


@pytest.mark.slow
def test_the_tutorial_leaves_what_it_says(desk):
    assert Emulator.load(desk / "emulator").domain["Z"] == pytest.approx((1e-4, 6e-3))
    for name in ("losses.png", "contours.png", "events.parquet"):
        assert (desk / name).stat().st_size > 1000


OPTIONAL = {"efficiency", "reliability", "license", "authors", "citation"}
"""Fields that not every `emulator.json` has."""


@pytest.mark.parametrize("kind", ["single", "ensemble"])
def test_the_fields_of_an_emulator_json_are_those_that_are_listed(tmp_path, kind):
    flow = a_flow() if kind == "single" else Ensemble([a_flow(), a_flow(seed=1)])
    card = json.loads((Emulator(flow).save(tmp_path / "e") / "emulator.json").read_text())

    text = (ROOT / "docs" / "reference" / "files.md").read_text().partition("## emulator.json")[2]
    listed = re.findall(r"^\| `(\w+)` \|", text.partition("\n### ")[0], re.MULTILINE)
    assert {*listed} - OPTIONAL == set(card)


def test_the_fields_of_a_dataset_json_are_those_that_are_told():
    stored = json.loads((SAMPLE / "dataset.json").read_text())

    assert set(stored) - {"schema"} <= set(Dataset.__dataclass_fields__)
