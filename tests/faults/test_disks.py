"""A full disk, a spent quota, a disk closed to writing or taken away: told in a sentence, nothing
lost, and the same command goes on once there is room."""

import contextlib

import pytest
from optuna.trial import TrialState

from hpo.records.folder import read
from hpo.records.record import NAME
from models.bundle.emulator import Emulator
from tests.forks import content_of

pytestmark = pytest.mark.slow

SAID = {
    "full": "No space left on device",
    "quota": "Disk quota exceeded",
    "closed": "Read-only file system",
}
FAULTS = pytest.mark.parametrize("fault", SAID)
AT = "--Z 0.001 --alpha 1"


@contextlib.contextmanager
def broken(disk, fault):
    """The disk with this fault, and what makes the forked commands meet it."""
    if fault == "full":
        disk.fill()
        yield {}
        disk.make_room()
    elif fault == "closed":
        disk.close()
        yield {}
        disk.open()
    else:
        yield {"watch": disk.folder, "fail_from": 0, "fault": "EDQUOT"}


def one_sentence(done, fault, place):
    """Whether this is all that was said, for people."""
    lines = [line for line in done.said.splitlines() if not line.startswith("Note:")]
    assert done.code == 2, done.said
    assert len(lines) == 1, done.said
    assert lines[0].startswith("Error: ")
    assert SAID[fault] in lines[0]
    assert str(place) in lines[0]
    return True


@FAULTS
def test_a_dataset_that_finds_no_room_is_made_later(forks, disk, source, data, fault):
    words = ("prepare", source, "--out", disk.folder / "new" / "out")

    with broken(disk, fault) as how:
        done = forks.hpo(*words, cwd=disk.folder.parent, **how)
        assert one_sentence(done, fault, disk.folder / "new")
        assert [path.name for path in disk.folder.iterdir() if path.name != "filler"] == []

    assert forks.hpo(*words, cwd=disk.folder.parent).code == 0
    found, wanted = content_of(disk.folder / "new" / "out"), content_of(data)
    assert {**found, "dataset.json": ""} == {**wanted, "dataset.json": ""}


@FAULTS
@pytest.mark.parametrize(
    "words",
    [
        pytest.param(f"plot likelihood EMULATOR {AT} --out OUT.png", id="picture"),
        pytest.param(f"sample EMULATOR -n 9000 {AT} --out OUT.csv", id="csv"),
        pytest.param(f"sample EMULATOR -n 9000 {AT} --out OUT.parquet", id="parquet"),
    ],
)
def test_a_file_that_finds_no_room_leaves_the_old_as_it_is(forks, disk, emulator, words, fault):
    words = words.replace("EMULATOR", str(emulator)).replace("OUT", str(disk.folder / "out"))
    words = words.split()
    assert forks.hpo(*words, cwd=disk.folder).code == 0
    before = content_of(disk.folder)

    with broken(disk, fault) as how:
        one_sentence(forks.hpo(*words, cwd=disk.folder.parent, **how), fault, words[-1])
        after = content_of(disk.folder)

    after.pop("filler", None)
    assert after == before
    assert forks.hpo(*words, cwd=disk.folder).code == 0


def test_an_emulator_that_finds_no_room_leaves_the_old_one_as_it_is(forks, disk, ran):
    out = disk.folder / "out"

    def export(trial, **options):
        words = ("export", "s", "--runs", ran, "--out", out, "--trial", trial, "--overwrite")
        return forks.hpo(*words, cwd=disk.folder.parent, **options)

    assert export(0).code == 0
    before = content_of(out)

    with broken(disk, "full") as how:
        one_sentence(export(1, **how), "full", out)
        assert content_of(out) == before
    with broken(disk, "quota") as how:
        one_sentence(export(1, **how | {"fail_from": 5}), "quota", out)

    assert content_of(disk.folder) == {f"out/{name}": digest for name, digest in before.items()}
    assert export(1).code == 0
    assert Emulator.load(out).card["provenance"]["trial"] == 1


@FAULTS
def test_a_trial_without_room_waits_and_does_not_count_as_a_bad_one(
    forks, disk, make, tmp_path, fault
):
    runs, url = disk.folder / "runs", f"sqlite:///{tmp_path / 'elsewhere.db'}"
    made = make(runs, trials=1, url=url, max_restarts=0)
    folder = made.folder / "trial-00000"
    folder.mkdir(parents=True)

    for _ in range(3):
        with broken(disk, fault) as how:
            done = forks.work("s", runs, cwd=tmp_path, storage=url, **how)
        assert done.code == 1
        assert SAID[fault] in done.said
        (trial,) = made.study.get_trials(deepcopy=False)
        assert trial.state == TrialState.WAITING

    assert forks.work("s", runs, cwd=tmp_path, storage=url).code == 0
    record = read(folder / NAME)
    assert (record.state, record.restarts, len(record.epochs)) == ("complete", 0, 2)
    assert [trial.state for trial in made.study.get_trials()] == [TrialState.COMPLETE]


def test_a_quota_that_ends_in_the_middle_costs_an_epoch_at_most(forks, make, tmp_path):
    runs = tmp_path / "runs"
    made = make(runs, trials=1, epochs=4, max_restarts=0)
    first, second = (made.folder / name for name in ("trial-00000", "trial-00001"))
    whole = forks.work("s", runs, cwd=tmp_path, watch=first)
    assert whole.code == 0
    made.slots.set_total(2)
    spent = {"watch": second, "fail_from": len(whole.events) // 2, "fault": "EDQUOT"}

    done = forks.work("s", runs, cwd=tmp_path, **spent)
    assert (done.code, SAID["quota"] in done.said) == (1, True)
    again = forks.work("s", runs, cwd=tmp_path)

    assert again.code == 0
    assert "goes on after epoch" in again.said
    assert [trial.state for trial in made.study.get_trials()] == [TrialState.COMPLETE] * 2
    assert [len(read(each / NAME).epochs) for each in (first, second)] == [4, 4]


@pytest.mark.parametrize("change", ["gone", "another"])
def test_a_database_that_was_taken_away_is_not_written_on(make, tmp_path, change):
    made = make(tmp_path / "runs", trials=1)
    path = tmp_path / "runs" / "hpo.db"
    path.rename(tmp_path / "away.db")
    if change == "another":
        path.write_bytes(b"")

    with pytest.raises(FileNotFoundError, match="the database is gone, or another one"):
        made.slots.set_total(2)
    path.unlink(missing_ok=True)
    (tmp_path / "away.db").rename(path)

    assert made.slots.set_total(2).added == 1
