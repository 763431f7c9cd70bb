"""Study files that are broken or hostile, and the script that a cluster's shell gets of them."""

import subprocess
import tomllib
from importlib import resources

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from hpo.execution.slurm import sbatch_text
from hpo.study import spec
from tests.fuzz.strategies import answer, broken, damaged, fuzz, memory, texts, values

TEXTS = [(resources.files("studies") / f"{name}.toml").read_bytes() for name in spec.shipped()]
TABLES = [tomllib.loads(text.decode()) for text in TEXTS]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("study") / "study.toml"


def read(path, text, **options):
    path.write_bytes(text)
    with memory(512):
        found = answer(spec.load, str(path), **options)
    if found is not None:  # it can be stored, and is the same when a worker reads it
        assert spec.StudySpec.from_json(found.to_json()) == found


@pytest.mark.slow
@fuzz(60)
@given(text=st.sampled_from(TEXTS).flatmap(damaged) | st.binary(max_size=60))
@example(b"[study]\nname = 'x'\n[study]\nname = 'y'")
@example(b"a = " + b"[" * 50_000)
@example(b"a = " + b"{a=" * 50_000)
@example(b"[" + b"a." * 50_000 + b"a]")
@example(b"[study]\nname = 'x'\ntrials = " + b"1" * 100_000)
@example(b"[study]\nname = 'x'\ntrials = " + b"1" * 4_000)
@example(b"[study]\nname = 'x'\n[space]\nhidden = {low = 1, high = " + b"1" * 4_000 + b"}")
@example(b"[study]\nname = 'x'\n[space]\nlearning_rate = {low = 1e-3, high = 1e-2, step = nan}")
@example(b"[study]\nname = 'x'\n[space]\nblocks = {low = 1, high = 4, step = inf}")
@example(b"[study]\nname = 'x'\n[training]\nlearning_rate = nan")
@example(b"[study]\nname = 'x'\n[data]\nhold_out_cells = [{Z = " + b"1" * 4_000 + b"}]")
@example(b"[study]\nname = 'x\\u0000y'")
@example(b"[study]\nname = 'x'\ntrials = 0x" + b"f" * 100_000)
@example(b"study = 0x" + b"f" * 100_000)
@example(b"study = 1979-05-27T07:32:00Z")
@example(b"\xef\xbb\xbf[study]\nname = 'x'")
def test_a_damaged_file(path, text):
    read(path, text)


@pytest.mark.slow
@fuzz(80)
@given(tables=st.sampled_from(TABLES).flatmap(broken))
@example({"study": {"name": "x"}, "space": {"hidden": {"low": 1, "high": 10**400}}})
@example({"study": {"name": "x"}, "space": {"hidden": [{"a": 1}]}})
@example({"study": {"name": "x"}, "space": {"hidden": [10**400]}})
@example({"study": {"name": "x", "trials": 10**400}})
@example({"study": {"name": "x"}, "training": {"clip_norm": 10**400}})
@example({"study": {"name": "x"}, "data": {"path": "\x00"}})
def test_any_tables(tables):
    assume(isinstance(tables, dict))
    with memory(512):
        found = answer(spec.parse, tables, source="it")
    if found is not None:
        assert spec.StudySpec.from_json(found.to_json()) == found


@fuzz(100)
@given(setting=st.tuples(st.sampled_from(spec.TABLES) | texts, texts, texts | values.map(str)))
@example(("study.name", "name", "[" * 50_000))
@example(("training", "learning_rate", "1\n[study]\nname='y'"))
@example(("space", "hidden", "=" * 100))
def test_any_setting_of_the_command_line(setting):
    table, key, value = setting
    answer(spec.load, "quick", settings=[f"{table}.{key}={value}"])


WORDS = st.sampled_from(
    ["; touch broken", "$(touch broken)", "`touch broken`", "\n touch broken", "' touch broken '"]
    + ['" touch broken "', "&& touch broken", "| touch broken", "> broken", "a b", "*", "~", "#"]
    + ["\\", "\r", "!!", "${IFS}touch${IFS}broken", "-x", "--", "=", "%j", "\x1b[2J", "gpu"]
)
HOSTILE = st.lists(WORDS | texts, min_size=1, max_size=3).map("".join)


@st.composite
def slurm_tables(draw):
    plain = {key: draw(HOSTILE) for key in ("partition", "account", "qos", "constraint", "exclude")}
    extra = draw(st.dictionaries(HOSTILE, HOSTILE | st.booleans() | st.integers(), max_size=2))
    plain["gpus"] = draw(st.sampled_from((0, "a100:2", "1g.5gb:1", "a100:1; touch broken")))
    return {key: value for key, value in plain.items() if draw(st.booleans())} | {"extra": extra}


@fuzz(60)
@given(table=slurm_tables(), path=HOSTILE, runs=HOSTILE, jobs=st.integers(1, 3))
@example({"partition": "gpu\ntouch broken"}, "data", "runs", 1)
@example({"partition": "gpu; touch broken"}, "data", "runs", 1)
@example({"extra": {"comment": "x\ntouch broken"}}, "data", "runs", 1)
@example({"extra": {"x\ntouch broken": "y"}}, "data", "runs", 1)
@example({"extra": {"comment": "two words"}}, "data", "runs", 1)
@example({}, "data", "a b; touch broken", 2)
@example({}, "data", "runs\ntouch broken\n", 1)
def test_nothing_of_a_study_is_run_by_the_shell(tmp_path_factory, table, path, runs, jobs):
    """The script is run by bash, in an empty folder, with a stub for srun."""
    tables = {"study": {"name": "x"}, "data": {"path": path}, "slurm": table}
    found = answer(spec.parse, tables, source="it")
    if found is None:
        return
    folder = tmp_path_factory.mktemp("shell")
    text = answer(sbatch_text, found, folder / runs.replace("\x00", ""), jobs)
    if text is None:
        return
    stub = f'srun() {{ for word in "$@"; do printf "%s\\0" "$word"; done >> {folder}/called; }}\n'
    done = subprocess.run(
        ["bash", "-c", stub + text], cwd=folder, capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 0, done.stderr
    assert sorted(each.name for each in folder.iterdir()) == ["called"]
    # Lines before the first command are what sbatch reads: each of one option.
    head = [line for line in text.splitlines() if line and not line.startswith("#SBATCH --")]
    commands = [line for line in head if not line.startswith("#")]
    assert [line.split()[0] for line in commands] == ["export", "srun"], text
