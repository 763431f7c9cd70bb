"""Whose server it is: the folder's word for it, without a server."""

import os
import socket
import subprocess
import sys

import pytest

from data_prep.errors import InputError
from hpo.queue.leases import this_machine
from hpo.server import guard

BOOT, SPACE, HOST = this_machine().split(":", 2)
REBOOTED = f"0b1c:{SPACE}:{HOST}"


def test_the_first_machine_has_it_until_it_lets_go(tmp_path):
    assert guard.claim(tmp_path)
    assert not guard.claim(tmp_path)
    assert guard.host_of(tmp_path) == HOST

    guard.release(tmp_path)

    assert guard.host_of(tmp_path) is None
    assert guard.claim(tmp_path)


@pytest.mark.parametrize(
    "machine",
    [
        pytest.param(f"{BOOT}:{SPACE}:login9", id="other-host"),
        pytest.param(f"{BOOT}:1:{HOST}", id="other-container"),
    ],
)
def test_another_machine_keeps_it(tmp_path, machine):
    os.symlink(machine, tmp_path / "hpo.machine")

    with pytest.raises(InputError, match="hpo db start --takeover"):
        guard.claim(tmp_path)

    assert os.readlink(tmp_path / "hpo.machine") == machine


def test_this_machine_has_it_after_a_reboot(tmp_path):
    os.symlink(REBOOTED, tmp_path / "hpo.machine")

    assert not guard.claim(tmp_path)

    assert os.readlink(tmp_path / "hpo.machine") == this_machine()


def test_a_name_that_many_hosts_have_tells_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    os.symlink(f"0b1c:{SPACE}:localhost", tmp_path / "hpo.machine")

    with pytest.raises(InputError, match="another machine called localhost"):
        guard.claim(tmp_path)


def test_a_server_that_runs_in_spite_of_a_takeover_is_given_time_to_notice(tmp_path, monkeypatch):
    slept = []
    monkeypatch.setattr(guard.time, "sleep", lambda seconds: slept.append(seconds))
    os.symlink(f"0b1c:{SPACE}:login9", tmp_path / "hpo.machine")
    (tmp_path / "postmaster.pid").write_text("17\n")

    assert guard.claim(tmp_path, takeover=True)

    assert slept == [guard.RECHECK_S]
    assert guard.RECHECK_S > 60
    assert sorted(os.listdir(tmp_path)) == ["hpo.machine"]
    assert os.readlink(tmp_path / "hpo.machine") == this_machine()


def process(folder):
    words = [sys.executable, "-c", "print(flush=True); input()"]
    made = subprocess.Popen(words, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    made.stdout.readline()
    return made


@pytest.mark.parametrize("within", [True, False])
def test_a_process_id_counts_only_for_a_process_in_the_folder(tmp_path, within):
    (tmp_path / "elsewhere").mkdir()
    with process(tmp_path if within else tmp_path / "elsewhere") as found:
        file = tmp_path / "postmaster.pid"
        file.write_text(f"{found.pid}\n{tmp_path}\n")

        assert guard.process_of(tmp_path) == (found.pid if within else None)
        assert file.exists() == within
        found.communicate(b"\n")

    assert guard.process_of(tmp_path) is None


def test_a_file_that_is_just_being_written_is_left_alone(tmp_path):
    (tmp_path / "postmaster.pid").touch()

    assert guard.process_of(tmp_path) is None
    assert (tmp_path / "postmaster.pid").exists()
