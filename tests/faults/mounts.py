"""A small disk of its own for a test: a tmpfs that can be filled, closed and taken away."""

import os
import subprocess

import pytest


def need_mounts():
    """Skip the test where this user may not mount, saying so; fail it where CI is set."""
    if os.geteuid() != 0:
        reason = "to run this: be root, who may mount a small disk"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


class Disk:
    """The disk, mounted at a folder."""

    def __init__(self, folder, size="8m"):
        self.folder = folder
        folder.mkdir()
        self._mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)

    def fill(self):
        """Leave no byte."""
        with (self.folder / "filler").open("wb", buffering=0) as file:
            try:
                while file.write(bytes(65_536)):
                    pass
            except OSError:
                return

    def make_room(self):
        (self.folder / "filler").unlink()

    def close(self):
        """Only reading is allowed from now on."""
        self._mount("-o", "remount,ro", self.folder)

    def open(self):
        self._mount("-o", "remount,rw", self.folder)

    def take_away(self):
        subprocess.run(["umount", "--lazy", self.folder], check=True)

    def _mount(self, *words):
        subprocess.run(["mount", *words], check=True)
