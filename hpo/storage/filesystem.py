"""The kind of file system that a path is on: shared between machines, private, writable.

SQLite's locks and shared memory hold within one machine, and a job needs a folder that its node
sees. Linux lists the mounts in `/proc/self/mountinfo` (proc(5)); elsewhere the kind is not known.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path, PurePosixPath

MOUNTS = Path("/proc/self/mountinfo")
PROBE_BYTES = 65_536
"""Written to see whether a disk takes any: a full one takes an empty file."""

_NETWORK = frozenset(
    "nfs nfs4 lustre gpfs beegfs ceph cephfs cifs smb3 smbfs afs auristorfs coda panfs pvfs2 "
    "orangefs glusterfs wekafs gfs2 ocfs2 9p virtiofs vboxsf vmhgfs".split()
)
"""Several machines, or a guest and its host, may write to it."""
_OF_ONE_MACHINE = frozenset(
    "bindfs ntfs-3g exfat ext2 fuse-overlayfs squashfuse squashfuse_ll encfs gocryptfs cryfs "
    "mergerfs unionfs lxcfs zfs archivemount portal".split()
)
"""File systems of FUSE on this machine; any other of FUSE is taken for a network's."""
_PRIVATE = frozenset(
    "tmpfs ramfs rootfs devtmpfs overlay overlayfs aufs fuse.fuse-overlayfs squashfs "
    "fuse.squashfuse fuse.squashfuse_ll proc sysfs".split()
)
"""In this machine's memory, or in a container."""


def kind_of(path: Path) -> str | None:
    """The file system that the path is on, or would be once it is made; None if not known.

    Returns:
        As mount writes it: `ext4`, `nfs4`, `fuse.sshfs`.
    """
    try:
        text = os.fsdecode(MOUNTS.read_bytes())
    except OSError:
        return None  # not Linux, or a sandbox without /proc
    return _kind_in(text, os.path.realpath(path))


def is_network(kind: str | None) -> bool:
    """Whether other machines may write to it, so that locks may not hold between them."""
    if kind is None:
        return False
    if kind.startswith("fuse."):
        return kind.removeprefix("fuse.") not in _OF_ONE_MACHINE
    return kind in _NETWORK


def is_private(kind: str | None) -> bool:
    """Whether other machines certainly do not see it. A disk may or may not be exported."""
    return kind in _PRIVATE


def _kind_in(mountinfo: str, path: str) -> str | None:
    """The kind in the text of mountinfo: of the deepest mount point above the path."""
    deepest, found = -1, None
    for line in mountinfo.split("\n"):
        place, separator, device = line.partition(" - ")
        fields = place.split(" ")
        if not separator or len(fields) < 5:
            continue
        # Blanks and backslashes stand there as \040 and \134.
        point = PurePosixPath(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4]))
        # Of two on the same point the later one lies on top: nfs over autofs.
        if len(point.parts) >= deepest and PurePosixPath(path).is_relative_to(point):
            deepest, found = len(point.parts), device.split(" ")[0]
    return found


def write_fault(folder: Path) -> str | None:
    """Why no file can be written in the folder, or in the parent that it would be made in."""
    place = nearest(folder)
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".hpo-") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())  # a quota may be told as late as that
            return None
    except OSError as error:
        return f"{place}: {error.strerror}"


def nearest(path: Path) -> Path:
    """The path, or the nearest parent that is there."""
    path = path.absolute()
    return next(one for one in (path, *path.parents) if os.path.lexists(one))
