"""What a soak is told, and the study that it runs."""

from dataclasses import dataclass

STUDY = """
[study]
name = "soak"
# More than there are kills: a trial fails for what it does, not for what is done to it.
max_restarts = 10_000

[data]
path = "data"

[space]
base = "normal"
blocks = {{ low = 1, high = 2 }}
bins = [4, 8]
hidden = [4, 8]
learning_rate = {{ low = 1e-3, high = 1e-2, log = true }}

[training]
epochs = {epochs}
batch_size = 256

[pruner]
min_epochs = 1
reduction_factor = 2
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How long, and how rough."""

    trials: int = 2000
    workers: int = 3
    """One of which is never harmed, so that what grows in it is seen."""

    epochs: int = 3
    rows: int = 600
    """Of the dataset."""

    database: str = "postgresql"
    seed: int = 1
    kill_s: float = 20.0
    """Seconds from one harmed worker to the next, in the mean."""

    launch_min: float = 4.0
    """Minutes from one killed launch to the next, likewise."""

    restart_min: float = 3.0
    """Minutes from one restart of the database to the next, likewise."""

    pace_s: float = 0.0
    """Seconds that a trial counts for in these times, so that a short soak has its kills on a fast
    machine and not too many on a slow one. 0: as many as it takes."""

    sample_s: float = 5.0
    """Seconds between two readings of memory and files."""

    minutes: float = 90.0
    """After which the soak is given up."""
