"""What README and the documentation show: every command parses, and what can run here does.

The pages are run in one clone, as by a reader who goes through them: `make demo` was typed there,
and each page begins with the commands that make its own folder. A block with a title is a file of
that name. A line above a block says what is special about it:

    <!-- tests add: OPTIONS -->    what trains, and scripts, get these options, to take less time
    <!-- run by tests/FILE.py -->  it is run there, with what it needs
    <!-- only parsed: WHY -->      it is run nowhere
"""

import contextlib
import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
import types
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from onnx.reference import ReferenceEvaluator

from data_prep.dataset import SAMPLE, Dataset
from hpo.cli import main
from hpo.cli.options import KEYED
from hpo.pictures import likelihood
from hpo.study import spec
from models import Emulator
from models.bundle.ensemble import Ensemble
from models.evaluation import two_sample
from tests.conftest import STORAGE
from tests.random_flows import a_flow

ROOT = Path(__file__).resolve().parents[1]
TUTORIAL = ROOT / "docs" / "tutorial.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
BLOCK = re.compile(
    r"(?:<!-- (only parsed|run by|tests add):? ([^>]*?) -->\n)?"
    r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
LINE = re.compile(r"^\$ ((?:.*\\\n)*.*)$", re.MULTILINE)
SCRIPT = re.compile(r"(?:\.\./)*examples/\w+\.py")
OF_FOLDERS = ("mkdir", "cp", "cd")
SMALL = shlex.split("--set training.epochs=1 --set pruner.min_epochs=1 --workers 1")
HEADING = re.compile(r"^##+ ", re.MULTILINE)
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
        """Its commands that are run, as words: `hpo`, scripts of `examples/`, and of folders."""
        more = shlex.split(self.said) if self.special == "tests add" else []
        found = []
        for line in LINE.findall(self.text):
            for part in line.replace("\\\n", " ").split(" && "):
                words = shlex.split(part, comments=True)
                is_script = words[0] == "python" and SCRIPT.fullmatch(words[1])
                if is_script or words[0] in ("hpo", *OF_FOLDERS):
                    is_long = is_script or words[1] == "launch" or "--train-on" in words
                    found.append([*words, *(more if is_long else [])])
        return found

    @property
    def commands(self) -> list[list[str]]:
        """Its `hpo` commands, as words without `hpo`, and without where they print to."""
        return [words[: [*words, ">"].index(">")] for name, *words in self.calls if name == "hpo"]


def parsed(text) -> list[Block]:
    return [Block(*groups) for groups in BLOCK.findall(text)]


def blocks(page, *languages) -> list[Block]:
    """Those of a page in these languages; all without any."""
    found = parsed(page.read_text())
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
def clone(tmp_path_factory):
    """A clone in which `make demo` was typed, with a smaller study."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("examples", "data_prep"):
        (folder / name).symlink_to(ROOT / name)
    typed_in = ["make", "--dry-run", "demo", f"DEMO={folder}/demo", "VENV=venv", "DEMO_TRIALS=2"]
    told = subprocess.run(typed_in, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (folder / "demo").mkdir()
    with here(folder):
        for line in re.findall("^venv/bin/(hpo .+)$", told, re.MULTILINE):
            words = shlex.split(line)
            done([*words, *(SMALL if words[1] == "launch" else [])])
    places = [Path(place) for place in re.findall(r'^echo "\w+ +(.+)"$', told, re.MULTILINE)]
    assert len(places) == 3
    assert all(place.exists() for place in places)
    return folder


@pytest.fixture(scope="module")
def first(clone):
    """What the tutorial leaves behind."""
    with here(clone):
        run(TUTORIAL)
    return clone / "first"


@contextlib.contextmanager
def here(folder):
    """Be in a folder, with nothing said about a database, and with little to measure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in STORAGE:
            patch.setenv(name, "")  # so that what is set in here goes afterwards
            patch.delenv(name)
        patch.setattr(two_sample, "PAIRS", 500)
        for trees in (two_sample.TREES, two_sample.OWN_TREES):
            patch.setitem(trees, "max_iter", 5)
            patch.setitem(trees, "max_bins", 8)
        patch.setattr(likelihood, "FRAMES", 3)
        yield


@contextlib.contextmanager
def onnxruntime():
    """One that can be imported: onnx's own evaluator where it is not installed."""
    with pytest.MonkeyPatch.context() as patch:
        if not importlib.util.find_spec("onnxruntime"):
            stand_in = types.SimpleNamespace(InferenceSession=ReferenceEvaluator)
            patch.setitem(sys.modules, "onnxruntime", stand_in)
        yield


def run(page):
    """Do what a page says, in its order; in a guide each section is a session of its own."""
    parts = HEADING.split(page.read_text()) if page.parent.name == "guides" else [page.read_text()]
    for part in parts:
        session: dict[str, object] = {}
        for block in parsed(part):
            if not block.runs:
                continue
            if block.title:
                Path(block.title).write_text(block.text)
            elif block.language == "python":
                is_onnx = "import onnxruntime" in block.text
                with onnxruntime() if is_onnx else contextlib.nullcontext():
                    exec(compile(block.text, str(page), "exec"), session)
            elif block.language == "console":
                for words in block.calls:
                    done(words)


def done(words):
    """Do what a reader types, which has to end well."""
    if words[0] == "cd":
        os.chdir(words[1])
    elif words[0] in OF_FOLDERS:
        subprocess.run(words, check=True)
    else:
        words, *file = (list(part) for is_arrow, part in groupby(words, ">".__eq__) if not is_arrow)
        code, told = typed(words)
        assert code == 0, f"{shlex.join(words)}\n{told}"
        if file:
            Path(*file[0]).write_text(told)


def typed(words):
    """Exit code and output of a command, in this process where it starts no other."""
    if words[:2] in (["hpo", "export"], ["hpo", "evaluate"]) and "--catalogs" not in words:
        # In sum minutes, for what test_reliability.py and test_coverage.py do once.
        words = [*words, "--catalogs", "0"]
    if words[0] == "hpo" and words[1] != "dashboard":
        with warnings.catch_warnings():
            # Workers that a launch has started end a moment after it.
            warnings.filterwarnings("ignore", "subprocess .* is still running", ResourceWarning)
            result = CliRunner().invoke(main, words[1:])
        return result.exit_code, result.output
    script = ["-m", "hpo.cli"] if words[0] == "hpo" else []
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
def test_what_a_page_shows_runs(page, clone, request):
    if "cp -r first " in page.read_text():
        request.getfixturevalue("first")

    with here(clone):
        run(page)


@pytest.mark.slow
def test_the_tutorial_leaves_what_it_says(first):
    assert Emulator.load(first / "emulator").domain["Z"] == pytest.approx((1e-4, 6e-3))
    for name in ("losses.png", "contours.png", "events.parquet"):
        assert (first / name).stat().st_size > 1000


@pytest.mark.parametrize("page", pages_with("console", "python"))
def test_a_page_begins_with_a_folder_of_its_own(page):
    calls = [words for block in blocks(page, "console") if block.runs for words in block.calls]

    assert not calls or calls[0][0] in OF_FOLDERS


OF_ONE_PAGE = re.compile(r"(?:mkdir|cp -r \w+) (\w+) && cd \1$", re.MULTILINE)


def test_no_two_pages_have_a_folder_or_a_study_in_common():
    """Studies of several folders may be in one database."""
    folders = [name for page in PAGES for name in OF_ONE_PAGE.findall(page.read_text())]
    assert len(folders) >= 8
    assert len({*folders, "demo"}) == len(folders) + 1
    studies: dict[str, Path] = {}
    for page in PAGES:
        launched = [
            words for block in blocks(page, "console") if block.runs for words in block.commands
        ]
        for words in launched:
            if words[0] == "launch" and "--dry-run" not in words:
                name = words[words.index("--name") + 1] if "--name" in words else words[1]
                assert studies.setdefault(name, page) == page, name


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
