"""`hpo` with any words: a result or a sentence, exit code 0 or 2, never a traceback."""

import click
import pyarrow.csv
import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from data_prep.errors import InputError
from hpo.cli import main
from hpo.cli.pictures import plot
from hpo.dashboard import server
from hpo.execution import launch as launching
from models import Emulator
from tests.conftest import draw_table
from tests.fuzz.strategies import fuzz, memory, texts
from tests.random_flows import a_flow

PLOTS = {f"plot {kind}": command for kind, command in plot.commands.items()}
COMMANDS = {**main.commands, **PLOTS}
NEVER = {"--watch", "--open", "--help", "-h"}
"""Options that wait for ever, start a browser, or end before anything is looked at."""
WORDS = (
    "bbh quick study.toml run.json emulator prepared sample mergers.csv out out.csv out.png . .. /"
    " /dev/null none table json csv local slurm test contours losses corner errors likelihood 0 1"
    " -1 3 99999999999999999999 1e400 nan inf Mass_0,Mass_1 Z,alpha m=Mass_0 0.6,0.2,0.2 1,nan,0"
    " --Z --alpha=1 --Z=nan --Z=1e400 --=1 -- - -n"
).split()
WORDS += ["Z > 1", "Z > 'a'", "$(touch broken)", "a\nb", "training.epochs=1", "space.blocks=[]"]
WORDS += ["sqlite:///hpo.db", "sqlite:////dev/null", "postgresql://u@127.0.0.1:1/x", "x://"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with one of everything that a command reads."""
    folder = tmp_path_factory.mktemp("place")
    pyarrow.csv.write_csv(draw_table(200, seed=1), folder / "mergers.csv")
    Emulator(a_flow(options={"hidden": 4, "depth": 1, "bins": 2})).save(folder / "emulator")
    (folder / "run.json").write_text('{"schema": 1}')
    (folder / "study.toml").write_text("[study]\nname = 'tiny'\n")
    done = CliRunner().invoke(main, ["prepare", f"{folder}/mergers.csv", "--out", f"{folder}/p"])
    assert done.exit_code == 0, done.output
    return folder


def options_of(command):
    """Every way to write an option of the command, with what it may be followed by."""
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            yield from (name for name in parameter.opts if name not in NEVER)


@st.composite
def lines(draw):
    name = draw(st.sampled_from(sorted(set(COMMANDS) - {"db", "plot"})))
    word = st.sampled_from(WORDS) | texts.filter(lambda text: "\x00" not in text)
    option = st.sampled_from(sorted(options_of(COMMANDS[name])))
    given_ = draw(st.lists(st.one_of(word, option, st.tuples(option, word).map(list)), max_size=7))
    flat = [one for each in given_ for one in (each if isinstance(each, list) else [each])]
    return [*name.split(), *flat]


@pytest.fixture
def alone(place, monkeypatch):
    """In that folder, where nothing is started: neither a server nor a worker."""

    def refuse(*_arguments, **_options):
        raise InputError("nothing is started in a test")

    monkeypatch.chdir(place)
    monkeypatch.delenv("HPO_STORAGE", raising=False)
    monkeypatch.setattr(server, "listen", refuse)
    monkeypatch.setattr(launching, "begin", refuse)
    monkeypatch.setattr(launching, "detach", refuse)
    return place


@pytest.mark.slow
@fuzz(80)
@given(words=lines())
@example(["sample", "emulator", "-n", "3", "--out", "out.csv", "--Z", "nan", "--alpha", "1"])
@example(["sample", "emulator", "-n", "3", "--out", "out.csv", "--Z", "1e400", "--alpha", "1"])
@example(["sample", "emulator", "-n", "9" * 20, "--out", "x.csv", "--Z", "1", "--alpha", "1"])
@example(["sample", "emulator", "-n", "3", "--out", "x.csv", "--seed", "9" * 400])
@example(["sample", "emulator", "-n", "3", "--out", "x.csv", "--seed", "9" * 30])
@example(["prepare", "mergers.csv", "--out", "o", "--seed", "9" * 30])
@example(["prepare", "mergers.csv", "--out", "o", "--split", "nan,nan,nan"])
@example(["prepare", "mergers.csv", "--out", "/dev/null/x"])
@example(["prepare", "mergers.csv", "--out", "x" * 300])
@example(["prepare", "x" * 5000, "--out", "o"])
@example(["prepare", "/dev/zero", "--out", "o"])
@example(["prepare", "mergers.csv", "--out", "o", "--events", "\x1b[2J"])
@example(["prepare", "mergers.csv", "--out", "o", "--conditions", "Z,seed"])
@example(["prepare", "mergers.csv", "--out", "o", "--where", "(" * 900])
@example(["launch", "--name", "../../x"])
@example(["launch", "--workers", "9" * 30])
@example(["launch", "--trials", "9" * 30])
@example(["launch", "--runs", "x" * 300])
@example(["launch", "--on", "slurm", "--runs", "a\ntouch broken"])
@example(["launch", "--storage", "postgresql://u:secret@127.0.0.1:1/x"])
@example(["launch", "--storage", "sqlite:////dev/null"])
@example(["launch", "x" * 5000])
@example(["launch", "/dev/zero"])
@example(["launch", "--set", "data.path=" + "x" * 5000])
@example(["status", "a\nb", "--storage", "sqlite:////dev/null"])
@example(["runs", ".", "--sort", "\x1b[2J"])
@example(["runs", "x" * 5000])
@example(["logs", "tiny", "9" * 30])
@example(["evaluate", "emulator", "/dev/null"])
@example(["evaluate", "x" * 5000, "sample"])
@example(["plot", "contours", "emulator", "--data", "p", "--columns", "a,b", "--out", "o.png"])
@example(["plot", "likelihood", "emulator", "--Z", "1", "--alpha", "1", "--out", "/x/y.png"])
@example(["rerun", "run.json"])
@example(["rerun", "/dev/zero"])
@example(["db", "upgrade", "--storage", "sqlite:////dev/null"])
@example(["dashboard", ".", "--host", "x" * 5000])
@example(["dashboard", ".", "--data", "x" * 5000])
@example(["doctor", "study.toml", "--runs", "x" * 300])
def test_any_words(alone, words):
    words = [word.encode(errors="replace").decode() for word in words]
    if words[0] == "launch":
        words.insert(1, "--dry-run")
    with memory(2048):
        done = CliRunner().invoke(main, words)
    failed = 1 if words[0] == "doctor" else 2  # it says what is wrong, and that it is
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code in (0, 2, failed), (words, done.output)
    assert "\x1b" not in done.stderr
    assert max(map(len, done.stderr.splitlines()), default=0) < 5_000
    assert "secret" not in done.output
    assert "Traceback" not in done.output
    assert not (alone / "broken").exists()
