"""What `make fuzz` runs, without atheris: each target takes its seeds, and what is near them."""

import subprocess
import sys
import types
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import guided, targets
from tests.fuzz.strategies import damaged, fuzz

NAMES = sorted(targets.TARGETS)


@pytest.mark.parametrize("name", NAMES)
def test_the_seeds_are_taken_but_for_those_that_are_not(name):
    for seed in targets.TARGETS[name].seeds:
        assert targets.once(name, seed)
    for seed in targets.TARGETS[name].refused:
        assert not targets.once(name, seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@fuzz(12)
@given(data=st.data())
def test_what_is_near_the_seeds_is_used_or_refused(name, data):
    target = targets.TARGETS[name]
    seeds = st.sampled_from((*target.seeds, *target.refused))
    targets.once(name, data.draw(seeds.flatmap(damaged)))


@pytest.fixture
def atheris(monkeypatch, tmp_path):
    """A stand-in that gives the function every file of the corpus, and keeps what it was told."""
    made = types.ModuleType("atheris")
    made.instrument_imports = lambda **_: pytest.MonkeyPatch.context()

    def setup(words, function):
        made.options, made.function = words[1:], function

    def run():
        for path in sorted((tmp_path / made.options[-1]).rglob("*")):
            made.function(path.read_bytes())

    made.Setup, made.Fuzz = setup, run
    monkeypatch.setitem(sys.modules, "atheris", made)
    monkeypatch.chdir(tmp_path)
    return made


def test_the_driver_sets_limits_and_lets_a_defect_through(atheris, monkeypatch):
    guided.main(["filter", "--minutes", "3"])

    assert {"-timeout=10", "-rss_limit_mb=2048", "-max_total_time=180"} <= set(atheris.options)

    def defect(_folder, _content):
        raise KeyError("not a sentence")

    broken = targets.Target(defect, targets.TARGETS["filter"].seeds)
    monkeypatch.setitem(targets.TARGETS, "filter", broken)
    with pytest.raises(KeyError, match="not a sentence"):
        guided.main(["filter"])


def test_the_driver_gives_one_input_again(atheris, tmp_path):
    (tmp_path / "crash-1").write_bytes(b"Z > 1")

    guided.main(["filter", "crash-1"])

    assert atheris.options == ["-timeout=10", "-rss_limit_mb=2048", "crash-1"]
    assert not (tmp_path / ".fuzz").exists()


def test_the_driver_runs_by_itself():
    """As `make fuzz` runs it, but for atheris: without what pytest puts in the way of imports."""
    script = (
        "import contextlib, sys, types; a = types.ModuleType('atheris'); "
        "a.instrument_imports = lambda **_: contextlib.nullcontext(); sys.modules['atheris'] = a; "
        "from tests.fuzz import guided; guided.main(['--list'])"
    )
    root = Path(__file__).resolve().parents[2]

    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=120
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == list(targets.TARGETS)


def test_a_target_that_is_none_is_told(atheris):
    with pytest.raises(SystemExit, match="there is no target 'x': choose from filter, dataset"):
        guided.main(["x"])


def test_without_atheris_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "atheris", None)
    with pytest.raises(SystemExit, match="pip install -e"):
        guided.main(["filter"])
