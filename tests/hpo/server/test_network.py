"""Who is let in, without a server."""

import ipaddress
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.errors import InputError
from hpo.server.network import free_port, networks, place, rules

ADDRESSES = st.lists(st.ip_addresses(), min_size=1, max_size=40)


@given(ADDRESSES)
def test_just_the_named_addresses_are_let_in(addresses):
    found = networks(map(str, addresses))

    assert {str(one) for network in found for one in network} == {str(one) for one in addresses}


@pytest.mark.parametrize("word", ["10.0.0.5/40", "login1", "", "10.0.0.0/8 hpo"])
def test_what_is_no_network_is_refused(word):
    with pytest.raises(InputError, match=r"write 10\.0\.0\.5 for one, 10\.0\.0\.0/8 for many"):
        networks([word])


def test_a_rule_is_for_one_role_in_one_database_with_its_password():
    let_in = [ipaddress.ip_network("10.0.0.0/24")]

    assert rules(let_in, encrypted=True) == "hostssl hpo hpo 10.0.0.0/24 scram-sha-256\n"
    assert rules(let_in, encrypted=False) == "host hpo hpo 10.0.0.0/24 scram-sha-256\n"


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Makes SLURM's commands, of which scontrol knows some nodes, or nothing."""

    def made(answer):
        for name in ("sbatch", "squeue", "scancel", "scontrol"):
            (tmp_path / name).write_text(f"#!/bin/sh\n{answer}\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return made


NODES = """cat <<'END'
NodeName=n1 Arch=x86_64 NodeAddr=127.0.0.1 NodeHostName=n1 Version=22.05.8 State=IDLE
NodeName=n2 Arch=x86_64 NodeAddr=127.0.0.2 NodeHostName=n2 Version=22.05.8 State=IDLE
NodeName=cloud1 NodeAddr=not-there.invalid NodeHostName=cloud1 State=IDLE+CLOUD+POWERED_DOWN
END"""


def test_the_nodes_are_let_in_at_the_address_that_they_reach(cluster):
    cluster(NODES)

    assert place(None) in [(one, ["127.0.0.1", "127.0.0.2"]) for one in ("127.0.0.1", "127.0.0.2")]


def test_on_loopback_nobody_is_asked(cluster):
    cluster("exit 1")

    assert place("127.0.0.1") == ("127.0.0.1", [])


def test_a_cluster_that_does_not_answer_is_told(cluster):
    cluster("echo 'Unable to contact slurm controller' >&2; exit 1")

    with pytest.raises(
        InputError, match=r"Unable to contact slurm controller.*--host 127\.0\.0\.1"
    ):
        place(None)


def test_without_a_cluster_nobody_else_reaches_it(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")

    assert place(None) == ("127.0.0.1", [])


@pytest.mark.parametrize("host", ["not-there.invalid", "0.0.0.0", "::"])
def test_a_host_that_is_no_one_address_is_refused(host):
    with pytest.raises(InputError, match="is no address of this host"):
        place(host)


@pytest.mark.cluster
def test_the_nodes_of_a_real_cluster_are_found(slurm, monkeypatch):
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)

    assert place(None) == ("127.0.0.1", ["127.0.0.1"])


def test_a_free_port_is_free_and_a_wanted_one_is_had():
    port = free_port("127.0.0.1", None)

    assert free_port("127.0.0.1", port) == port
