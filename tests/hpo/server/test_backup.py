"""`hpo db backup` and `hpo db restore`, on real databases."""

import secrets
import sqlite3
import sys
from contextlib import closing

import pytest
from click.testing import CliRunner
from optuna.trial import TrialState
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from hpo.cli import main
from hpo.storage.address import url_of
from tests import claimers


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.cluster)])
def place(request, tmp_path):
    """URL of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/hpo.db"
    return request.getfixturevalue("postgres").create(f"t{secrets.token_hex(6)}")


def hpo(*words):
    return CliRunner().invoke(main, ["db", *map(str, words)])


def fill(url):
    """Two trials, one of them claimed, the other one done."""
    slots, study = claimers.slots_of(url)
    slots.set_total(3)
    claim = slots.claim(claimers.Owner.this_process())
    slots.finish(claim, TrialState.COMPLETE, 4.5)
    slots.claim(claimers.Owner.this_process())
    return contents(url, study)


def contents(url, study=None):
    study = study or claimers.slots_of(url)[1]
    trials = [(one.number, one.state, one.value) for one in study.get_trials(deepcopy=False)]
    claimers.close()
    with create_engine(url_of(url, None), poolclass=NullPool).connect() as connection:
        leases = connection.execute(text("select * from hpo_leases order by 1")).all()
    return trials, leases


def test_what_is_brought_back_is_what_was_there(place, tmp_path):
    before = fill(place)
    copied = hpo("backup", tmp_path / "copy", "--storage", place)
    assert copied.exit_code == 0, copied.output
    assert (tmp_path / "copy").stat().st_mode & 0o077 == 0
    assert claimers.slots_of(place)[0].claim(claimers.Owner.this_process()).number == 2
    assert contents(place) != before

    refused = hpo("restore", tmp_path / "copy", "--storage", place)
    assert refused.exit_code == 2
    assert "holds 1 studies" in refused.output
    assert contents(place) != before

    done = hpo("restore", tmp_path / "copy", "--storage", place, "--overwrite")
    assert done.exit_code == 0, done.output
    assert contents(place) == before
    assert claimers.slots_of(place)[0].claim(claimers.Owner.this_process()).number == 2


def test_an_empty_database_takes_it_at_once(place, tmp_path, request):
    before = fill(place)
    assert hpo("backup", tmp_path / "copy", "--storage", place).exit_code == 0
    if place.startswith("sqlite"):
        other = f"sqlite:///{tmp_path}/new/other.db"
    else:
        other = request.getfixturevalue("postgres").create(f"t{secrets.token_hex(6)}")

    done = hpo("restore", tmp_path / "copy", "--storage", other)

    assert done.exit_code == 0, done.output
    assert contents(other) == before


def test_no_file_is_replaced_unasked(place, tmp_path):
    fill(place)
    (tmp_path / "copy").write_text("thesis")

    refused = hpo("backup", tmp_path / "copy", "--storage", place)
    assert refused.exit_code == 2
    assert "is there already" in refused.output
    assert (tmp_path / "copy").read_text() == "thesis"

    assert hpo("backup", tmp_path / "copy", "--storage", place, "--overwrite").exit_code == 0


def test_a_file_that_is_no_copy_is_refused(place, tmp_path):
    before = fill(place)
    (tmp_path / "copy").write_text("thesis")

    refused = hpo("restore", tmp_path / "copy", "--storage", place, "--overwrite")

    assert refused.exit_code == 2
    assert "is no copy of a" in refused.output
    assert contents(place) == before


def test_a_copy_that_was_cut_off_changes_nothing(place, tmp_path):
    before = fill(place)
    hpo("backup", tmp_path / "copy", "--storage", place)
    whole = (tmp_path / "copy").read_bytes()
    (tmp_path / "copy").write_bytes(whole[: len(whole) // 2])

    failed = hpo("restore", tmp_path / "copy", "--storage", place, "--overwrite")

    assert failed.exit_code in (1, 2)
    assert contents(place) == before


@pytest.mark.cluster
def test_no_password_is_told(postgres, tmp_path):
    database = postgres.url()
    (tmp_path / "copy").write_bytes(b"PGDMP, and no more")
    told = [
        hpo("restore", tmp_path / "copy", "--storage", database),
        hpo("backup", tmp_path / "copy", "--storage", database, "--overwrite"),
        hpo("backup", tmp_path / "other", "--storage", database.rpartition("/")[0] + "/none"),
    ]

    assert [one.exit_code for one in told] == [1, 0, 2]
    assert postgres.secret not in "".join(one.output for one in told)


def test_a_driver_that_is_missing_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)

    refused = hpo("backup", tmp_path / "copy", "--storage", "postgresql://me:s3cret@host/db")

    assert refused.exit_code == 2
    assert "pip install 'hpo-flows[postgres]'" in refused.output


def test_a_server_of_another_kind_is_left_to_its_own_programs(tmp_path):
    refused = hpo("backup", tmp_path / "copy", "--storage", "mysql://me:s3cret@host/db")

    assert refused.exit_code == 2
    assert "as mysqldump" in refused.output
    assert "s3cret" not in refused.output


def test_a_copy_of_sqlite_is_whole_while_others_write(tmp_path):
    url = f"sqlite:///{tmp_path}/hpo.db"
    before = fill(url)
    with closing(sqlite3.connect(tmp_path / "hpo.db", isolation_level=None)) as writing:
        writing.execute("begin immediate")
        writing.execute("delete from hpo_leases")
        assert hpo("backup", tmp_path / "copy", "--storage", url).exit_code == 0
        writing.execute("rollback")

    assert contents(f"sqlite:///{tmp_path}/copy") == before
