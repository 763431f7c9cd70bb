import os
from pathlib import Path

import pytest

from hpo.storage import filesystem
from hpo.storage.filesystem import is_network, is_private, kind_of

MOUNTS = r"""
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
22 27 0:21 / /proc rw,relatime - proc proc rw
40 27 0:40 / /data rw,relatime shared:7 master:1 - xfs /dev/sdb rw
41 40 0:41 / /data/lustre rw,relatime - lustre 10.0.0.1@tcp:/fs rw
42 27 0:42 / /home rw - autofs /etc/auto.home rw
43 42 0:43 / /home rw - nfs4 server:/home rw,vers=4.2
44 27 0:44 / /mnt/my\040disk\134old rw - fuse.sshfs me@host:/x rw
a line of another shape
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        pytest.param("/etc/hosts", "ext4", id="root"),
        pytest.param("/data/runs", "xfs", id="mount point"),
        pytest.param("/data", "xfs", id="mount point itself"),
        pytest.param("/data/lustre/me/runs", "lustre", id="deepest"),
        pytest.param("/database/runs", "ext4", id="name that only begins alike"),
        pytest.param("/home/me", "nfs4", id="later mount lies on top"),
        pytest.param("/mnt/my disk\\old/x", "fuse.sshfs", id="escaped"),
    ],
)
def test_the_deepest_mount_point_above_a_path_tells_its_kind(path, kind):
    assert filesystem._kind_in(MOUNTS, path) == kind


def test_a_folder_that_is_not_there_yet_is_where_its_parent_is(tmp_path):
    assert kind_of(tmp_path / "not" / "there") == kind_of(tmp_path)


@pytest.mark.skipif(not os.path.exists("/proc/self/mountinfo"), reason="not Linux")
def test_a_link_is_where_it_leads_to(tmp_path):
    (tmp_path / "link").symlink_to("/proc/self")

    assert kind_of(tmp_path / "link" / "status") == "proc"


def test_without_proc_nothing_is_known_and_nothing_claimed(tmp_path, monkeypatch):
    monkeypatch.setattr(filesystem, "MOUNTS", tmp_path / "mountinfo")

    kind = kind_of(Path("/"))

    assert (kind, is_network(kind), is_private(kind)) == (None, False, False)


@pytest.mark.parametrize(
    ("kind", "network", "private"),
    [
        *[(kind, True, False) for kind in ("nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph")],
        *[(kind, True, False) for kind in ("cifs", "smb3", "afs", "9p", "wekafs", "fuse.sshfs")],
        *[(kind, True, False) for kind in ("fuse.juicefs", "fuse.ceph", "fuse.something-new")],
        *[(kind, False, True) for kind in ("tmpfs", "ramfs", "overlay", "fuse.fuse-overlayfs")],
        *[(kind, False, False) for kind in ("ext4", "xfs", "btrfs", "zfs", "fuse.ntfs-3g")],
    ],
)
def test_who_sees_a_file_system(kind, network, private):
    assert (is_network(kind), is_private(kind)) == (network, private)
