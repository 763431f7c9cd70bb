"""Who may reach the server: this host, and the nodes of the cluster where SLURM names them."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections import Counter
from collections.abc import Iterable, Sequence

from data_prep.errors import InputError, first_line
from hpo.cluster.jobs import SchedulerError, ask_slurm, slurm_available

LOOPBACK = ("127.0.0.1", "::1")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def place(host: str | None) -> tuple[str, list[str]]:
    """The address to listen on, and those of the nodes that reach it there.

    Args:
        host: That was asked for. By default it is the address from which this host speaks to most
            nodes; without SLURM, one that only this host reaches.

    Raises:
        InputError: If the host has no address of its own, or SLURM is there and does not answer.
    """
    address = _address_of(host) if host else None
    if not slurm_available() or (address and ipaddress.ip_address(address).is_loopback):
        return address or LOOPBACK[0], []
    try:
        text = ask_slurm("scontrol", "show", "nodes", "--oneliner")
    except SchedulerError as error:
        raise InputError(
            f"the cluster's nodes are not known ({first_line(error)}): run hpo db start --host "
            f"{LOOPBACK[0]} for this machine alone"
        ) from None
    names = set(re.findall(r"\bNodeAddr=(\S+)", text))
    # One that cannot be looked up does not exist yet, as in a cloud.
    nodes = sorted({found for name in names for found in _looked_up(name)})
    sources = Counter(filter(None, map(_source_to, nodes)))
    return address or (sources.most_common(1)[0][0] if sources else LOOPBACK[0]), nodes


def networks(words: Iterable[str]) -> list[Network]:
    """Addresses and networks (`10.0.0.5`, `10.0.0.0/8`), the fewest that hold the same ones.

    Raises:
        InputError: If one is neither.
    """
    found: list[Network] = []
    for word in words:
        try:
            found.append(ipaddress.ip_network(word, strict=False))
        except ValueError:
            raise InputError(
                f"--allow {word!r} is no address: write 10.0.0.5 for one, 10.0.0.0/8 for many"
            ) from None
    four = [one for one in found if isinstance(one, ipaddress.IPv4Network)]
    six = [one for one in found if isinstance(one, ipaddress.IPv6Network)]
    return [*ipaddress.collapse_addresses(four), *ipaddress.collapse_addresses(six)]


def free_port(host: str, wanted: int | None) -> int:
    """The wanted port, or one that nobody has.

    Raises:
        InputError: If another program has the wanted one, or the address is not this host's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, wanted or 0))
        except OSError as error:
            raise InputError(
                f"port {wanted or 'any'} of {host} cannot be had ({error.strerror}): give another "
                "with --port, or another address of this host with --host"
            ) from None
        return int(probe.getsockname()[1])


def rules(allowed: Sequence[Network], *, encrypted: bool) -> str:
    """`pg_hba.conf`: the one role, in its one database, with its password, from these addresses."""
    kind = "hostssl" if encrypted else "host"
    return "".join(f"{kind} hpo hpo {network} scram-sha-256\n" for network in allowed)


def _address_of(host: str) -> str:
    found = sorted(_looked_up(host), key=lambda one: (":" in one, one))
    if not found or ipaddress.ip_address(found[0]).is_unspecified:
        raise InputError(f"--host {host!r} is no address of this host: give one, such as 10.0.0.5")
    return found[0]


def _looked_up(name: str) -> set[str]:
    try:
        return {str(found[4][0]).partition("%")[0] for found in socket.getaddrinfo(name, None)}
    except socket.gaierror:
        return set()


def _source_to(address: str) -> str | None:
    """The address from which this host sends to another. Nothing is sent."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))
        except OSError:  # no way leads there
            return None
        return str(probe.getsockname()[0])
