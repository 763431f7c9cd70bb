"""Values that many rows share: told with the way out, kept as atoms, or spread over their step."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.columns import Column
from data_prep.dataset import SPLITS, Dataset
from data_prep.errors import DataError
from data_prep.preparation import ties
from data_prep.preparation.prepare import prepare
from data_prep.preparation.ties import Ties, off_lattice
from data_prep.stream import read_split

RNG = np.random.default_rng(5)
MASS = RNG.lognormal(2.5, 0.4, 3_000)
SPIN = np.where(RNG.random(3_000) < 0.7, 0.0, np.clip(RNG.normal(0.2, 0.3, 3_000), -1, 1))
OTHERS = {"Z": RNG.choice([0.001, 0.01], 3_000), "alpha": RNG.choice([1.0, 3.0], 3_000)}


def made(folder: Path, events: dict[str, np.ndarray], **options: object) -> Dataset:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table({**events, **OTHERS}), folder / "t.parquet")
    place = folder / f"out-{len(list(folder.iterdir()))}"
    return prepare([folder / "t.parquet"], place, event_columns=list(events), **options)


def events_of(folder: Path) -> np.ndarray:
    return np.concatenate([read_split(folder, name).events for name in SPLITS])


def told(columns: dict[str, np.ndarray], **fields: object) -> list[str]:
    found = Ties([Column(name, "", **fields) for name in columns], [])
    rows = len(next(iter(columns.values())))
    for start in range(0, rows, 1_000):
        found.add(
            {name: np.asarray(v, float)[start : start + 1_000] for name, v in columns.items()}
        )
    found.check()
    return list(found.notes())


def test_a_spike_is_told_with_its_share_and_the_way_out(tmp_path):
    (note,) = made(tmp_path, {"mass_1": MASS, "chi_eff": SPIN}).notes

    assert "chi_eff is 0 in 71 % of the rows" in note
    assert "NLLs are not comparable" in note
    assert "pass --atom chi_eff=0" in note


def test_rows_piled_up_at_a_bound_are_told():
    ratio = np.minimum(RNG.uniform(0.5, 1.05, 3_000), 1)

    (note,) = told({"q": ratio}, low=0.0, high=1.0)

    assert "q is 1 (its highest) in" in note


def test_a_table_without_ties_has_no_notes(table, tmp_path):
    pq.write_table(table, tmp_path / "t.parquet")

    assert prepare([tmp_path / "t.parquet"], tmp_path / "out").notes == ()
    assert "notes" not in (tmp_path / "out" / "dataset.json").read_text()


def test_a_value_is_counted_however_late_it_comes_and_however_many_others_there_are(monkeypatch):
    monkeypatch.setattr(ties, "COUNTERS", 200)
    values = np.concatenate([RNG.normal(size=20_000), np.full(1_500, 0.25)])

    (note,) = told({"x": RNG.permutation(values), "y": RNG.normal(size=len(values))})

    assert "x is 0.25 in 7 % of the rows" in note or "x is 0.25 in 6." in note


def test_copies_of_a_row_are_no_ties_of_its_columns(tmp_path):
    chosen = RNG.choice(MASS[:400], 3_000, p=(w := RNG.pareto(1, 400)) / w.sum())

    assert told({"x": chosen, "y": 2 * chosen}) == []
    assert len(told({"x": chosen})) == 1


@pytest.mark.parametrize(
    ("step", "shift"), [(1.0, 0.0), (0.1, 0.0), (0.25, 0.0), (1.0, 0.5), (0.05, 0.0), (3.0, 0.0)]
)
def test_rounded_values_are_told_with_their_step(step, shift):
    values = np.round(MASS / step) * step + shift

    (note,) = told({"M": values})

    assert f"pass --lattice M={step:g}," in note


def test_continuous_values_are_not_taken_for_rounded_ones():
    assert told({"M": MASS.astype(np.float32)}) == []
    assert told({"M": np.round(MASS, 4)}) == []


def test_a_lattice_is_spread_evenly_over_its_steps(tmp_path):
    rounded = np.round(MASS)
    plain = made(tmp_path, {"M": rounded, "chi_eff": SPIN})
    dataset = made(tmp_path, {"M": rounded, "chi_eff": SPIN}, lattice={"M": 1.0})

    found = events_of(tmp_path / "out-2")[:, 0]
    assert np.array_equal(np.sort(np.round(found)), np.sort(rounded))
    assert len(np.unique(found)) > 2_900
    # Uniform: of 3,000 values the mean offset has an error of 0.005.
    assert abs((found - np.round(found)).mean()) < 0.025
    assert (found - np.round(found)).std() == pytest.approx(1 / np.sqrt(12), abs=0.01)
    assert any("M was rounded to 1: each value was spread" in note for note in dataset.notes)
    assert any("--lattice M=1" in note for note in plain.notes)


def test_the_noise_depends_on_the_seed_alone(tmp_path, monkeypatch):
    events = {"M": np.round(MASS), "chi_eff": SPIN}
    first = made(tmp_path, events, lattice={"M": 1.0}).fingerprint
    other = made(tmp_path, events, lattice={"M": 1.0}, seed=1).fingerprint
    monkeypatch.setattr("data_prep.tables.arrow.CHUNK_ROWS", 333)

    assert made(tmp_path, events, lattice={"M": 1.0}).fingerprint == first != other


def test_noise_stays_within_the_support(tmp_path):
    ratio = np.round(np.clip(RNG.normal(0.9, 0.2, 3_000), 0, 1), 1)
    redshift = np.round(RNG.exponential(0.1, 3_000), 1)  # 0 among them
    made(tmp_path, {"q": ratio, "z": redshift}, lattice={"q": 0.1, "z": 0.1})

    q, z = events_of(tmp_path / "out-1").T
    assert 0.95 < q[q > 0.95].min()
    assert q.max() <= 1
    assert 0 < z.min() < 0.005


def test_a_lattice_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"row 2: --lattice M=1 does not fit, since .* is no whole"):
        made(tmp_path, {"M": np.append(8.0, MASS[1:]), "x": MASS}, lattice={"M": 1.0})


def test_an_atom_is_kept_as_it_is_beside_a_lattice(tmp_path):
    rounded = np.where(SPIN == 0, 0.07, np.round(SPIN, 1))

    dataset = made(
        tmp_path,
        {"M": MASS, "chi_eff": rounded},
        lattice={"chi_eff": 0.1},
        atoms={"chi_eff": [0.07]},
    )

    found = events_of(tmp_path / "out-1")[:, 1]
    assert (found == np.float32(0.07)).sum() == (SPIN == 0).sum()
    assert dataset.event_columns[1].atoms == (0.07,)
    assert not any("in 71 %" in note for note in dataset.notes)


def test_an_atom_that_no_row_has_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"--atom chi_eff=0\.5: no row has .* the nearest is 0\."):
        made(tmp_path, {"M": MASS, "chi_eff": SPIN}, atoms={"chi_eff": [0.5]})


def test_a_column_of_atoms_alone_is_refused(tmp_path):
    with pytest.raises(DataError, match="every row has one of the atoms of 'x'"):
        made(tmp_path, {"M": MASS, "x": (SPIN == 0) * 1.0}, atoms={"x": [0, 1]})


def test_values_that_single_precision_makes_equal_are_told(tmp_path):
    stamps = 1.7e9 + RNG.uniform(0, 1e4, 3_000)

    (note,) = told({"t": stamps})

    assert (
        "of 3,000 distinct values, since a dataset holds single precision, in steps of 1.3e+02"
        in (note)
    )
    assert "subtract a constant" in note
    assert told({"t": stamps - 1.7e9}) == []
    # A year of GPS times: few rows are equal yet, but more would be.
    assert "distinct values" in told({"t": 1.3e9 + RNG.uniform(0, 3e7, 3_000)})[0]


def test_a_lattice_is_told_from_what_lies_between():
    assert off_lattice(np.array([0.1, 0.3, 40.2]), 0.1) is None
    assert off_lattice(np.float32([0.1, 0.3, 40.2]).astype(float), 0.1) is None
    assert off_lattice(np.array([0.5, 2.5, 2.7]), 1.0) == 2
