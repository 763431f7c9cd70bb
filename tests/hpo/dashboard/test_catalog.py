"""The catalog of a folder of runs, on real files: what it reads, when again, and what never."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from hpo.dashboard import catalog as catalogs
from hpo.dashboard.catalog import Catalog
from hpo.records import table
from hpo.records.folder import read
from hpo.records.record import RecordError, RunRecord
from tests.made_runs import BASE, trained

THESIS = Path(__file__).parents[4] / "shared" / "data" / "thesis_runs"

needs_thesis = pytest.mark.skipif(not THESIS.is_dir(), reason="the thesis's runs are not here")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    """Every look is a look at the files."""
    monkeypatch.setattr(catalogs, "PAUSE_S", 0.0)


def record(trial: int = 0, epochs: int = 3, **changes) -> RunRecord:
    vals = [5.1 - number / 10 for number in range(1, epochs + 1)]
    return trained(*vals, trial=trial, **changes)


def put(folder: Path, trial: int, **changes) -> Path:
    return record(trial, **changes).write(folder / "bbh" / f"trial-{trial:05d}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three runs of a study."""
    for trial in range(3):
        put(tmp_path / "runs", trial)
    return tmp_path / "runs"


@pytest.fixture
def catalog(folder: Path) -> Catalog:
    made = Catalog(folder)
    made.refresh()
    return made


def row_of(catalog: Catalog, key: str):
    """The only row of that key."""
    [row] = [row for row in catalog.rows() if row["run"] == key]
    return row


def test_its_rows_are_those_of_hpo_runs(folder, catalog):
    put(folder, 7, epochs=0, state="running")
    (folder / "bbh" / "trial-00002" / "run.json").write_text("{")
    catalog.refresh()

    rows = [dict(row) for row in catalog.rows()]
    keys = [row.pop("run") for row in rows]

    assert rows == table.rows(folder)
    assert keys == [f"bbh/trial-{number:05d}" for number in (0, 1, 2, 7)]


@pytest.mark.parametrize("epochs", [0, 1, 40])
def test_a_row_does_not_need_the_epochs_before_the_last(tmp_path, epochs):
    path = put(tmp_path, 0, epochs=epochs)

    assert table.row(read(path, last_epoch=True)) == table.row(read(path))


@needs_thesis
def test_a_row_of_the_thesis_does_not_either():
    for path in THESIS.glob("*.json"):
        assert table.row(read(path, last_epoch=True)) == table.row(read(path))


def test_nothing_is_read_again_that_did_not_change(catalog, monkeypatch):
    monkeypatch.setattr(catalogs, "read_within", None)
    before = catalog.version

    assert catalog.refresh() == before
    assert catalog.changed_since(before) == set()


def test_only_the_run_that_changed_is_told(folder, catalog):
    before = catalog.version
    put(folder, 1, epochs=5)
    put(folder, 9)
    shutil.rmtree(folder / "bbh" / "trial-00000")

    catalog.refresh()

    changed = {f"bbh/trial-0000{number}" for number in (0, 1, 9)}
    assert catalog.changed_since(before) == changed
    assert row_of(catalog, "bbh/trial-00001")["epochs"] == 5
    assert len(catalog.record("bbh/trial-00001").epochs) == 5


def test_two_folders_of_the_same_trial_are_two_runs(folder, catalog):
    shutil.copytree(folder / "bbh", folder / "copy")
    catalog.refresh()

    assert len({row["run"] for row in catalog.rows()}) == 6


def test_no_parameter_takes_the_place_of_a_key(folder, catalog):
    put(folder, 1, params={"run": "bbh/trial-00000"}, flow={"run": 3})
    catalog.refresh()

    keys = [row["run"] for row in catalog.rows()]
    assert keys == [f"bbh/trial-{number:05d}" for number in range(3)]
    assert row_of(catalog, keys[1])["run"] == keys[1]


def test_a_number_beyond_64_bits_can_be_sorted_by(folder, catalog):
    put(folder, 1, params={"blocks": 10**90}, cost=replace(BASE.cost, parameters=-(10**90)))
    catalog.refresh()

    for column, order in (("blocks", [0, 2, 1]), ("parameters", [1, 0, 2])):
        listed = table.select(catalog.rows(), sort=[column])
        assert [row["trial"] for row in listed] == order


def test_a_study_that_vanishes_under_a_look_takes_no_other_with_it(folder, catalog, monkeypatch):
    shutil.copytree(folder / "bbh", folder / "copy")
    listing = os.scandir, os.listdir

    def late(listed):
        def look(path="."):
            if str(path).endswith("copy"):
                shutil.rmtree(path, ignore_errors=True)
            return listed(path)

        return look

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", late(listing[0]))
        patched.setattr(os, "listdir", late(listing[1]))
        catalog.refresh()

    assert [row["trial"] for row in catalog.rows()] == [0, 1, 2]


def test_whole_records_are_kept_that_were_asked_for_last(folder, monkeypatch):
    monkeypatch.setattr(catalogs, "KEPT", 2)
    catalog = Catalog(folder)
    catalog.refresh()
    keys = [row["run"] for row in catalog.rows()]
    first = catalog.record(keys[0])
    second = catalog.record(keys[1])

    assert catalog.record(keys[0]) is first
    catalog.record(keys[2])

    assert catalog.record(keys[0]) is first
    assert catalog.record(keys[1]) is not second


def test_a_broken_run_is_a_row_with_its_reason_until_it_is_whole(folder, catalog):
    path = folder / "bbh" / "trial-00001" / "run.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    catalog.refresh()

    broken = row_of(catalog, "bbh/trial-00001")
    assert broken["state"] == table.UNREADABLE
    assert "not JSON" in broken["reason"]
    with pytest.raises(RecordError, match="not JSON"):
        catalog.record("bbh/trial-00001")

    path.write_bytes(whole)
    catalog.refresh()
    assert row_of(catalog, "bbh/trial-00001")["state"] == "complete"


def nested(path: Path) -> None:
    path.write_text('{"epochs": ' + "[" * 100_000)


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(500 * 2**20)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def linked(path: Path) -> None:
    path.symlink_to("/etc/passwd")


@pytest.mark.parametrize("harm", [nested, huge, pipe, linked, Path.mkdir])
def test_a_file_that_is_no_record_harms_nothing_else(folder, catalog, harm):
    path = folder / "bbh" / "trial-00001" / "run.json"
    path.unlink()
    harm(path)

    catalog.refresh()

    states = {row["run"]: row["state"] for row in catalog.rows()}
    assert states == {
        "bbh/trial-00000": "complete",
        "bbh/trial-00001": table.UNREADABLE,
        "bbh/trial-00002": "complete",
    }
    assert "root:" not in str(catalog.rows())


def test_a_link_to_itself_is_passed_over(folder, catalog):
    path = folder / "bbh" / "trial-00001" / "run.json"
    path.unlink()
    path.symlink_to(path)

    catalog.refresh()

    assert [row["trial"] for row in catalog.rows()] == [0, 2]


def test_a_trial_folder_that_leads_out_is_not_followed(folder, catalog, tmp_path):
    put(tmp_path / "elsewhere", 5)
    (folder / "bbh" / "trial-00005").symlink_to(tmp_path / "elsewhere" / "bbh" / "trial-00005")
    catalog.refresh()

    assert "leads out" in row_of(catalog, "bbh/trial-00005")["reason"]
    assert catalog.trial_folder("bbh/trial-00005") is None
    assert catalog.log_tail("bbh/trial-00005") == ""


def test_a_folder_that_became_a_link_is_not_followed(folder, catalog, tmp_path):
    shutil.move(folder / "bbh" / "trial-00001", tmp_path / "away")
    (folder / "bbh" / "trial-00001").symlink_to(tmp_path / "away")

    with pytest.raises(RecordError, match="leads out"):
        catalog.record("bbh/trial-00001")
    assert catalog.trial_folder("bbh/trial-00001") is None


def test_the_tail_of_a_log_is_its_last_lines(folder, catalog):
    log = folder / "bbh" / "trial-00001" / "log.txt"
    lines = [f"epoch {number}" for number in range(100_000)]
    log.write_text("\n".join(lines))

    assert catalog.log_tail("bbh/trial-00001").splitlines() == lines[-200:]


def test_a_log_that_is_a_link_is_not_read(folder, catalog):
    (folder / "bbh" / "trial-00001" / "log.txt").symlink_to("/etc/passwd")

    assert catalog.log_tail("bbh/trial-00001") == ""


@pytest.mark.parametrize("key", ["../../etc/passwd", "", "bbh", "bbh/trial-00001/run.json"])
def test_a_key_is_looked_up_and_never_a_path(catalog, key):
    for asked in (catalog.record, catalog.trial_folder, catalog.log_tail):
        with pytest.raises(KeyError):
            asked(key)


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(RecordError, match="is not a folder"):
        Catalog(tmp_path / "nowhere")


@needs_thesis
def test_a_run_of_the_thesis_changes_with_its_curves_and_its_neighbours(tmp_path):
    folder = shutil.copytree(THESIS, tmp_path / "thesis")
    catalog = Catalog(folder)
    catalog.refresh()
    [first, *_] = sorted(folder.glob("*.json"))
    before = row_of(catalog, first.name)

    first.with_name(f"{first.stem}_loss.npz").unlink()
    catalog.refresh()
    assert "no loss curves" in row_of(catalog, first.name)["reason"]

    shutil.copy(first, folder / "a.json")
    catalog.refresh()
    assert row_of(catalog, first.name)["trial"] == before["trial"] + 1
    assert catalog.trial_folder(first.name) is None
