"""The small dataset and the disk of the fault tests."""

from tests.faults.conftest import data, disk, source

__all__ = ["data", "disk", "source"]
