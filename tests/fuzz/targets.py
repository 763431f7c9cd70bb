"""What reads the files and texts of strangers, each as a function of bytes: what `guided` attacks.

A target may refuse what it is given in a clear sentence. Any other error, or more memory than it
is allowed, is a defect.
"""

import contextlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from data_prep.dataset import SAMPLE, Dataset
from hpo.records import record
from hpo.records.folder import read
from hpo.records.record import RunRecord
from hpo.study import spec
from tests.fuzz.strategies import answer, memory
from tests.fuzz.test_bundle import CARD, CARD_OF, WEIGHTS, WEIGHTS_OF, forged, used_or_refused
from tests.fuzz.test_filter import use
from tests.fuzz.test_records import RUN, THESIS

MEGABYTES = 512
"""Of memory beyond what is taken, for one input."""


@dataclass(frozen=True)
class Target:
    """One reader and inputs that it takes."""

    run: Callable[[Path, bytes], bool]
    """With an empty folder to write into, and the input: whether it is taken."""
    seeds: tuple[bytes, ...]
    refused: tuple[bytes, ...] = ()
    """Seeds that are not."""


def a_filter(_folder, content):
    return use(content.decode("utf-8", "replace"))


def a_dataset_json(folder, content):
    (folder / "dataset.json").write_bytes(content)
    with memory(MEGABYTES):
        found = answer(Dataset.read, folder)
    if found is not None:  # what was read can be written, and is the same again
        found.write(folder)
        assert Dataset.read(folder) == found
    return found is not None


def a_run_json(folder, content):
    path = folder / record.NAME
    path.write_bytes(content)
    with memory(MEGABYTES):
        found = answer(read, path)
        answer(read, path, last_epoch=True)
    if isinstance(found, RunRecord) and found.reported is None:
        found.write(folder)
        assert read(path) == found
    return isinstance(found, RunRecord)


def a_run_of_the_thesis(folder, content):
    path = folder / "blocks_3.json"
    path.write_bytes(content)
    with memory(MEGABYTES):
        found = answer(read, path)
    return found is not None


def a_study(folder, content):
    path = folder / "study.toml"
    path.write_bytes(content)
    with memory(MEGABYTES):
        found = answer(spec.load, str(path))
    if found is not None:
        assert spec.StudySpec.from_json(found.to_json()) == found
    return found is not None


def a_card(folder, content):
    return used_or_refused(forged(folder / "in", content))


def weights(folder, content):
    return used_or_refused(forged(folder / "in", dict(CARD_OF), content))


def _bundle(name):
    with tempfile.TemporaryDirectory() as folder:
        return (forged(Path(folder), dict(CARD_OF)) / name).read_bytes()


TARGETS = {
    "filter": Target(
        a_filter,
        (
            b"Mass_0 > 3 and Z != 0.03",
            b"not (3 < Mass_0 <= 40.0) or name in ('a', 'b')",
            b"Z not in (1e-3, -2) and Mass_0 * 2 + 1 >= Z / 3",
        ),
    ),
    "dataset": Target(a_dataset_json, ((SAMPLE / "dataset.json").read_bytes(),)),
    "run": Target(a_run_json, (json.dumps(RUN).encode(),)),
    "thesis": Target(a_run_of_the_thesis, (json.dumps(THESIS).encode(),)),
    "study": Target(
        a_study,
        tuple(
            (resources.files("studies") / f"{name}.toml").read_bytes() for name in spec.shipped()
        ),
    ),
    "card": Target(a_card, (_bundle(CARD),)),
    "weights": Target(weights, (_bundle(WEIGHTS),), refused=(WEIGHTS_OF[:2000],)),
}
"""By the name that `guided` takes."""


def once(name, content):
    """Give one input to a target: whether it is taken. Raises whatever is a defect."""
    with tempfile.TemporaryDirectory(prefix="hpo-fuzz-") as folder, contextlib.chdir(folder):
        taken = TARGETS[name].run(Path(folder), content)
        assert not Path(folder, "broken").exists()  # what hostile texts would touch
    return taken
