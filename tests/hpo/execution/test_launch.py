"""A study from `hpo launch` to its end, with real workers, and through what can happen to them."""

import contextlib
import functools
import itertools
import os
import signal
import subprocess
import sys
import time
import tomllib

import optuna
import psutil
import pytest
from click.testing import CliRunner
from optuna.trial import TrialState

from hpo.cli import main
from hpo.cli.progress import line
from hpo.execution.follow import follow
from hpo.execution.launch import asked_for, begin, open_or_make
from hpo.execution.plan import make_plan
from hpo.queue.leases import Owner
from hpo.records.folder import read_all
from hpo.records.record import RunRecord
from hpo.storage.address import url_of
from hpo.storage.open import open_storage
from hpo.study.spec import SpecError, load
from hpo.study.study import blank_record, create_study, load_study
from models.config import FlowConfig

pytestmark = pytest.mark.slow

STUDY = """
[study]
name = "tiny"
trials = 3

[space]
base = "normal"
hidden = [4, 8]
blocks = { low = 1, high = 2 }

[training]
epochs = 4
batch_size = 512

[pruner]
min_epochs = 1
"""


@pytest.fixture
def place(tmp_path, prepared, monkeypatch):
    """A working folder with a study file for `prepared`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HPO_STORAGE", raising=False)
    return written(tmp_path, prepared)


def written(place, data):
    (place / "tiny.toml").write_text(STUDY + f'\n[data]\npath = "{data}"\n')
    return place


def hpo(*words, code=0):
    """Run `hpo` in this process and give back what it printed on both streams."""
    done = CliRunner().invoke(main, list(map(str, words)))
    assert done.exit_code == code, done.output
    return done.output


def url_in(place):
    return url_of(f"sqlite:///{place}/runs/hpo.db", place / "runs")


def made(place, *settings, **options):
    """A study whose trials wait, as `begin` makes it: the plan, the study, its slots."""
    spec = load(str(place / "tiny.toml"), settings=settings)
    wanted = {"trials": None, "workers": 1, "on": "local"} | options
    plan = make_plan(spec, runs=place / "runs", url=url_in(place), **wanted)
    return plan, *begin(plan)


def trials_of(place, name="tiny"):
    return optuna.load_study(study_name=name, storage=open_storage(url_in(place))).trials


def records_of(place, name="tiny"):
    found = [record for _, record in read_all(place / "runs" / name)]
    assert all(isinstance(record, RunRecord) for record in found)
    return found


@pytest.fixture(scope="module")
def launched(forks, prepared, tmp_path_factory):
    """A study of which a worker ran one trial, and a launch the others. Do not write into it.

    The launch has two workers, within a job of SLURM and under an open umask.
    """
    place = written(tmp_path_factory.mktemp("launched"), prepared)
    made(place, "pruner.kind=none", trials=1)
    assert forks.work("tiny", place / "runs", cwd=place).code == 0
    first = trials_of(place)[0]
    del os.environ["HPO_STORAGE"]  # which `begin` has set
    environment = {**os.environ, "SLURM_JOB_ID": "7", "SLURM_LOCALID": "0"}
    words = command("launch", "tiny.toml", "--workers", 2, "--set", "pruner.kind=none")
    before = os.umask(0)
    try:
        done = subprocess.run(
            words, cwd=place, env=environment, capture_output=True, text=True, timeout=300
        )
    finally:
        os.umask(before)
    assert done.returncode == 0, done.stdout + done.stderr
    return place, first, done.stdout


def command(*words):
    return [sys.executable, "-m", "hpo.cli", *map(str, words)]


def test_a_launch_adds_what_is_missing_to_the_total_and_the_next_one_nothing(launched, monkeypatch):
    place, first, said = launched
    before = trials_of(place)
    assert "3 of 3 trials done (3 complete, 0 pruned, 0 failed)" in said
    assert [one.state for one in before] == [TrialState.COMPLETE] * 3
    assert before[0] == first

    monkeypatch.chdir(place)
    said = hpo("launch", "tiny.toml", "--workers", 2, "--set", "pruner.kind=none")

    assert trials_of(place) == before
    assert "0 waiting" in said


def test_local_workers_within_a_job_of_slurm_leave_each_others_trials_alone(launched):
    assert [record.restarts for record in records_of(launched[0])] == [0, 0, 0]


def test_the_records_and_the_study_tell_the_same(launched):
    for trial, record in zip(trials_of(launched[0]), records_of(launched[0]), strict=True):
        values = [row.val_nll for row in record.epochs]
        assert record.trial == trial.number
        assert record.params == trial.params
        assert record.best_val_nll == trial.value == min(values)
        assert trial.intermediate_values == {row.epoch: row.val_nll for row in record.epochs}
        assert record.flow["hidden"] == trial.params["hidden"]
        assert record.test.rows == record.data.rows["test"]


def test_under_an_open_umask_not_everyone_can_write_what_the_workers_run(launched):
    made = [path for path in (launched[0] / "runs" / "tiny").rglob("*")]

    assert any(path.suffix == ".pkl" for path in made)
    by_launch = [path for path in made if "trial-00000" not in str(path)]
    assert [path for path in by_launch if path.stat().st_mode & 0o002] == []


@contextlib.contextmanager
def launching(place, *words, **options):
    """A launch under way; whatever of it is left at the end is killed."""
    environment = {key: value for key, value in os.environ.items() if key != "HPO_STORAGE"}
    with (place / "said.txt").open("w") as said:
        launcher = subprocess.Popen(
            command(*words), cwd=place, env=environment, stdout=said, stderr=said, **options
        )
        try:
            yield launcher
        finally:
            kill(family(launcher))
            launcher.wait()


def family(launcher):
    """The launcher, the controllers of its workers, and the workers."""
    try:
        root = psutil.Process(launcher.pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill(processes):
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def wait_for(happened, launcher, timeout_s=200):
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert launcher.poll() is None, "the launch ended early"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def under_way(place):
    """Trials that have trained an epoch and not ended."""
    found = [record for _, record in read_all(place / "runs" / "tiny")] if begun(place) else []
    return [record.trial for record in found if record.state == "running" and record.epochs]


def begun(place):
    return (place / "runs" / "tiny").exists()


def workers_of(place):
    """The study's worker processes, whoever started them."""
    folder = str(place / "runs" / "tiny" / "workers")
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if "submitit.core._submit" in words and folder in words:
                found.append(process)
    return found


def test_an_interrupted_launch_hands_back_its_trials_and_those_of_one_that_was_killed(place):
    words = ("launch", "tiny.toml", "--trials", 4, "--workers", 2, "--set", "training.epochs=500")
    words += ("--set", "training.patience=0", "--set", "pruner.kind=none")
    with launching(place, *words) as first:
        wait_for(lambda: len(workers_of(place)) == 2, first)
        processes = family(first)
        first.kill()
        first.wait()
    lost, kept = workers_of(place)
    kept.suspend()  # before it has a trial, as all are while they load torch
    lost.kill()
    try:
        with launching(place, *words) as second:
            wait_for(lambda: under_way(place), second)
            assert set(workers_of(place)) & set(processes) == {kept}
            assert len(workers_of(place)) == 2

            kept.resume()
            wait_for(lambda: len(under_way(place)) == 2, second)
            second.send_signal(signal.SIGINT)
            assert second.wait(timeout=60) == 130
        assert workers_of(place) == []
        assert "The same command goes on with tiny" in (place / "said.txt").read_text()
    finally:
        kill(processes)
    assert [one.state for one in trials_of(place)] == [TrialState.WAITING] * 2


@pytest.mark.parametrize(
    ("number", "tell"),
    [
        pytest.param(signal.SIGHUP, os.killpg, id="the terminal is gone"),
        pytest.param(signal.SIGTERM, os.kill, id="the launch is told to end"),
    ],
)
def test_a_launch_that_is_ended_hands_back_its_trials(place, number, tell):
    words = ("launch", "tiny.toml", "--trials", 1, "--workers", 1, "--set", "training.epochs=500")
    words += ("--set", "training.patience=0", "--set", "pruner.kind=none")
    with launching(place, *words, start_new_session=True) as launch:
        wait_for(lambda: under_way(place), launch)
        for _ in range(2):  # a shell sends one, and then the kernel
            tell(launch.pid, number)
        assert launch.wait(timeout=60) == 130

    assert workers_of(place) == []
    assert [one.state for one in trials_of(place)] == [TrialState.WAITING]
    assert [record.restarts for record in records_of(place)] == [0]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_ctrl_c_that_python_swallows_ends_a_launch_all_the_same(place, monkeypatch):
    monkeypatch.setattr("hpo.cluster.signals.INSIST_S", 0.2)
    # It would tell all children of the tests' own process.
    monkeypatch.setattr("hpo.execution.local.LocalWorkers.hand_back", lambda _: None)
    plan, study, slots = made(place)
    ends = signal.getsignal(signal.SIGINT)

    class Finalized:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def show(*_):
        Finalized()
        time.sleep(10)
        raise AssertionError("nobody told it again")

    with pytest.raises(KeyboardInterrupt):
        follow(plan, study, slots, show=show, tell=print)
    assert signal.getsignal(signal.SIGINT) == ends


def test_a_stopped_study_starts_no_trial_until_it_is_launched_again(forks, place):
    plan, study, slots = made(place, trials=2)
    forks.hpo("stop", "tiny", cwd=place)
    assert forks.work("tiny", place / "runs", cwd=place).code == 0

    status = follow(plan, study, slots, show=lambda *_: None, tell=print)

    assert (status.waiting, status.stopping) == (2, "stopped by hpo stop")
    begin(plan)
    assert forks.work("tiny", place / "runs", cwd=place).code == 0
    assert all(one.state.is_finished() for one in trials_of(place))


def test_points_for_a_stopped_study_wait_for_its_launch(place):
    plan, study, slots = made(place, trials=2)
    hpo("stop", "tiny")
    (place / "points.json").write_text('{"blocks": 1}')

    hpo("enqueue", "tiny.toml", "points.json")

    status = follow(plan, study, slots, show=lambda *_: None, tell=print)
    assert (status.waiting, status.stopping) == (2, "stopped by hpo stop")


def test_a_study_with_other_options_is_not_continued(place):
    open_or_make("tiny.toml", runs=place / "runs", url=url_in(place))

    said = hpo("launch", "tiny.toml", "--set", "training.epochs=9", code=2)

    assert "[training] epochs is 4 there and 9 here" in said
    assert "--name" in said
    assert said.endswith("hpo launch tiny goes on with it as it is\n")


def test_a_study_goes_on_by_its_name_with_all_that_it_was_made_with(place, monkeypatch):
    settings = ["training.epochs=9", "space.hidden=[1, 4]", "data.hold_out=interior"]
    settings += ["data.path=sample", "training.objective=held_out_nll"]
    plan, *_ = made(place, *settings, trials=5)
    (place / "tiny.toml").unlink()
    url, runs = url_in(place), place / "runs"
    asked = functools.partial(asked_for, "tiny", name=None, runs=None, url=url)

    spec = asked(settings=())

    assert (spec.study.trials, spec.training) == (5, plan.spec.training)
    assert spec.space == plan.spec.space
    again = asked(settings=settings)
    again = make_plan(again, trials=None, workers=1, on="local", runs=runs, url=url)
    assert again.spec.data == plan.spec.data
    _, slots = begin(again)
    assert slots.look().total == 5
    said = hpo("launch", "tiny", "--set", "training.epochs=4", "--trials", 7, code=2)
    assert "[training] epochs is 9 there and 4 here" in said
    assert hpo("status", "tiny").splitlines()[-1] == "go on: hpo launch tiny"
    told = hpo("status", "tiny", "--runs", "runs")
    assert told.splitlines()[-1] == "go on: hpo launch tiny --runs runs"
    monkeypatch.chdir(place / "runs")
    words = ["launch", "tiny", "--dry-run", "--storage", f"sqlite:///{place}/runs/hpo.db"]
    assert tomllib.loads(CliRunner().invoke(main, words).stdout)["training"]["epochs"] == 9


def test_another_name_makes_another_study_of_the_file(place):
    made(place, "training.epochs=9")

    spec = asked_for("tiny", settings=(), name="other", runs=None, url=url_in(place))

    assert (spec.study.name, spec.training.epochs) == ("other", 4)


def test_the_runs_of_a_forgotten_study_are_not_taken_for_a_new_ones(place):
    (place / "runs" / "tiny" / "trial-00000").mkdir(parents=True)

    said = hpo("launch", "tiny.toml", "--trials", 1, code=2)

    assert "holds trials of an earlier study of that name" in said


def test_a_grid_is_run_point_by_point_and_a_point_that_cannot_be_fails_alone(forks, place):
    grid = ["space.hidden=[1, 4]", "sampler.kind=grid", "space.blocks=[1]"]
    grid += ["space.conditioner=masked"]
    words = [word for one in grid for word in ("--set", one)]
    assert "its grid has 2 points" in hpo("launch", "tiny.toml", "--trials", 3, *words, code=2)

    made(place, *grid, trials=2)
    assert forks.work("tiny", place / "runs", cwd=place).code == 0

    one, other = trials_of(place)  # one hidden unit cannot serve two masses
    assert (one.params["hidden"], one.state) == (1, TrialState.FAIL)
    assert (other.params["hidden"], other.state) == (4, TrialState.COMPLETE)
    why = "hidden must be at least the number of event columns (2)"
    assert why in line(records_of(place)[0])


def test_a_launch_says_how_many_trials_there_will_be_where_it_is_not_what_was_typed(place):
    told = []

    def launched(*settings, **options):
        told.clear()
        spec = load(str(place / "tiny.toml"), settings=settings)
        wanted = {"trials": None, "workers": 1, "on": "local"} | options
        plan = make_plan(spec, runs=place / "runs", url=url_in(place), **wanted)
        _, slots = begin(plan, tell=told.append)
        return slots

    assert launched(trials=200).look().total == 200
    assert told == []
    slots = launched()  # three in the file
    assert told == ["tiny: goes on to 200 trials, as before: --trials sets another number"]
    for _ in range(4):
        slots.claim(Owner.this_process())
    launched(trials=50)
    assert told == ["tiny: 200 -> 50 trials"]
    slots.enqueue([{"hidden": 4}])
    assert launched(trials=2).look().total == 4
    assert told == ["tiny: 50 -> 4 trials: 4 have begun, 1 waiting point removed"]
    slots.enqueue([{"hidden": 4}])
    assert launched(trials=2).look().total == 5
    assert told == ["tiny: 5 trials: 4 have begun, 1 was enqueued beyond 2"]


def test_the_first_trial_has_the_defaults_as_far_as_the_space_allows_them(place):
    default = FlowConfig()
    layers = f"space.blocks={{low={default.blocks}, high=9}}"

    made(place, "space.activation=['relu', 'silu']", "space.depth=[5]", layers)

    first = [one.system_attrs.get("fixed_params") for one in trials_of(place)]
    assert first == [{"activation": default.activation, "blocks": default.blocks}]


def test_a_random_study_and_one_that_was_given_points_begin_with_none_of_their_own(place):
    searched = "space.depth=[1, 2]"
    made(place, searched, "sampler.kind=random", "study.name=random")
    open_or_make("tiny.toml", runs=place / "runs", url=url_in(place))
    (place / "points.json").write_text('{"blocks": 1}')
    hpo("enqueue", "tiny.toml", "points.json")

    made(place)

    assert trials_of(place, "random") == []
    assert [one.system_attrs["fixed_params"] for one in trials_of(place)] == [{"blocks": 1}]


def test_a_grid_has_all_its_points_whatever_was_enqueued_before_its_launch(place):
    text = (place / "tiny.toml").read_text().replace("{ low = 1, high = 2 }", "[1, 2]")
    (place / "tiny.toml").write_text(f'{text}\n[sampler]\nkind = "grid"\n')
    (place / "points.json").write_text('{"blocks": 2, "hidden": 4}')

    hpo("enqueue", "tiny.toml", "points.json")
    made(place, trials=4)

    points = [one.system_attrs["fixed_params"] for one in trials_of(place)]
    assert points[0] == {"blocks": 2, "hidden": 4}
    assert {(one["blocks"], one["hidden"]) for one in points} == {(1, 4), (1, 8), (2, 4), (2, 8)}
    assert len(points) == 4


def test_two_launches_of_a_study_at_once_share_it(forks, place):
    both = [("hpo", "launch", "tiny.toml", "--trials", 4, "--workers", 1)] * 2

    done = forks.at_once(both, cwd=place)

    assert [each.code for each in done] == [0, 0], done
    assert [one.number for one in trials_of(place)] == [0, 1, 2, 3]
    assert all(one.state.is_finished() for one in trials_of(place))


def test_sqlite_is_refused_for_a_cluster(place):
    said = hpo("launch", "tiny.toml", "--on", "slurm", code=2)

    assert "is for one machine" in said
    assert not (place / "runs").exists()


def test_a_dry_run_touches_nothing(place):
    said = hpo("launch", "tiny.toml", "--dry-run", "--on", "slurm")

    assert "#SBATCH --job-name=tiny" in said
    assert "epochs = 4" in said
    assert not (place / "runs").exists()


def test_a_detached_launch_finishes_by_itself_and_hides_its_storage(place):
    url = f"sqlite:///{place}/runs/hpo.db?password=hunter2"
    words = ("launch", "tiny.toml", "--trials", 1, "--detach", "--storage", url)
    # A process of its own: the command reads the words that it runs again from sys.argv.
    done = subprocess.run(command(*words), cwd=place, capture_output=True, text=True, timeout=100)
    assert "hpo status tiny" in done.stdout, done.stderr
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            assert "hunter2" not in " ".join(process.cmdline())

    deadline = time.monotonic() + 120
    while [one.state.is_finished() for one in trials_of(place)] != [True]:
        assert time.monotonic() < deadline
        time.sleep(0.3)


def test_cells_that_cannot_be_held_out_are_all_named_before_anything_is_made(place):
    cells = "[{Z=0.0012,alpha=1.0},{Z=0.01},{Z=0.01,alpha=5.0},{Z=0.01,alpha=5.0}]"

    said = hpo("launch", "tiny.toml", "--set", f"data.hold_out_cells={cells}", code=2)

    assert "Traceback" not in said
    assert "Z = 0.0012, alpha = 1 is no cell of it: the nearest are Z = 0.001, alpha = 1" in said
    assert "Z = 0.01 must name Z and alpha: missing alpha, unknown none" in said
    assert "Z = 0.01, alpha = 5 is named twice" in said
    assert not (place / "runs").exists()


def test_interior_cells_are_named_when_a_study_is_planned(place):
    interior = ["data.path=sample", "data.hold_out=interior", "training.objective=held_out_nll"]

    def planned(*settings, **options):
        spec = load("tiny.toml", settings=[*interior, *settings])
        at = {"runs": place / "runs", "url": url_in(place)}
        return make_plan(spec, trials=1, workers=1, on="local", **at, **options)

    plans = [planned(f"data.hold_out_fold={fold}") for fold in range(4)]
    for one, following in itertools.pairwise([*plans, plans[0]]):
        assert one.spec.data.report_cells == following.spec.data.hold_out_cells
    assert "36 cells, 3 of them held out, 4 to report by" in plans[0].describe()
    every = [tuple(cell.values()) for plan in plans for cell in plan.spec.data.hold_out_cells]
    assert len(set(every)) == len(every) == 14

    def make(plan):
        storage, data = open_storage(plan.url), plan.dataset.fingerprint
        return create_study(storage, plan.spec, runs=plan.runs, fingerprint=data)

    make(plans[0])
    study, spec = load_study(open_storage(plans[0].url), "tiny")
    assert spec == plans[0].spec
    assert blank_record(study, 0).data.kept_out == tuple(spec.data.kept_out)
    make(planned())  # the same file goes on with it
    with pytest.raises(SpecError, match=r"\[data\] report_cells is .* there and .* here"):
        make(plans[1])


def test_a_dataset_with_too_few_interior_cells_is_refused_before_anything_is_made(place):
    said = hpo("launch", "tiny.toml", "--set", "data.hold_out=interior", code=2)

    assert "[data] hold_out: 1 of its 9 cells are interior, with neighbours on both" in said
    assert "Traceback" not in said
    assert not (place / "runs").exists()


def test_a_dry_run_shows_the_held_out_cells_as_the_dataset_writes_them(place):
    cells = "data.hold_out_cells=[{alpha=5,Z=0.01},{Z=0.001000000001,alpha=1}]"

    said = hpo("launch", "tiny.toml", "--set", cells, "--dry-run")

    assert "6,000 rows in 9 cells, 2 of them held out" in said
    resolved = tomllib.loads(said[said.index("[study]") :])
    assert resolved["data"]["hold_out_cells"] == [
        {"Z": 0.001, "alpha": 1.0},
        {"Z": 0.01, "alpha": 5.0},
    ]
