"""The stream's laws: every row once an epoch, reproducible, restartable, cached or not."""

from __future__ import annotations

import itertools
import shutil
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import stream as streaming
from data_prep.dataset import SPLITS, Dataset
from data_prep.errors import DataError
from data_prep.preparation import parts
from data_prep.preparation.prepare import prepare
from data_prep.stream import Batch, Stream, read_split


@pytest.fixture(scope="module")
def many(table: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`prepared` in many small row groups and several part files."""
    folder = tmp_path_factory.mktemp("many")
    pq.write_table(table, folder / "a.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "GROUP_ROWS", 97)
        patch.setattr(parts, "PART_GROUPS", 10)
        prepare([folder / "a.parquet"], folder / "out")
    return folder / "out"


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many windows and hand-overs in an epoch of 3,602 rows."""
    monkeypatch.setattr(streaming, "WINDOW_ROWS", 400)
    monkeypatch.setattr(streaming, "LUMP_ROWS", 250)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Row groups that were decoded, in turn."""
    seen: list[int] = []
    decode = streaming._Table.decode
    monkeypatch.setattr(
        streaming._Table, "decode", lambda *args: (seen.append(args[1]), decode(*args))
    )
    return seen


@pytest.fixture(autouse=True)
def no_thread_left() -> object:
    """Fails a test that leaves a read-ahead thread running."""
    yield
    assert not [t.name for t in threading.enumerate() if t.name.startswith("read-ahead")]


def rows(batches: list[Batch]) -> Counter[tuple[float, ...]]:
    joined = np.concatenate([np.concatenate(batch.arrays, axis=1) for batch in batches])
    return Counter(map(tuple, joined.tolist()))


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        np.array_equal(a, b)
        for first, second in zip(one, other, strict=True)
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("batch_size", [1, 64, 397, 1000, 100_000])
def test_an_epoch_gives_every_row_once(many, split, batch_size):
    stream = Stream(many, split, batch_size=batch_size, memory_mb=0)

    batches = list(stream.epoch(0))

    assert rows(batches) == rows([read_split(many, split)])
    assert len(batches) == stream.batches == -(-stream.rows // batch_size)
    assert {len(batch.events) for batch in batches[:-1]} <= {batch_size}


def test_batches_are_float32_in_physical_units(many, table):
    batch = next(iter(stream := Stream(many, "train", batch_size=10).epoch(0)))
    stream.close()

    assert batch.events.shape == (10, 2)
    assert batch.conditions.shape == (10, 2)
    assert batch.events.dtype == batch.conditions.dtype == np.float32
    assert batch.events.flags.c_contiguous
    known = dict(
        zip(table["Mass_0"].to_numpy().astype("f4").tolist(), table["Z"].to_pylist(), strict=True)
    )
    for mass, Z in zip(batch.events[:, 0].tolist(), batch.conditions[:, 0], strict=True):
        assert Z == np.float32(known[mass])


def test_epochs_and_seeds_differ_and_repeat(many):
    def epoch(seed: int, index: int) -> list[Batch]:
        return list(Stream(many, "train", batch_size=200, seed=seed).epoch(index))

    assert same(epoch(0, 0), epoch(0, 0))
    assert not same(epoch(0, 0), epoch(0, 1))
    assert not same(epoch(0, 0), epoch(1, 0))
    # Not the same order with another start: hardly any row keeps its place.
    first, second = (np.concatenate([b.events for b in epoch(0, index)]) for index in (0, 1))
    assert (first == second).all(axis=1).mean() < 0.01


def test_each_epoch_and_each_window_is_dealt_anew(many):
    stored = {tuple(row): place for place, row in enumerate(read_split(many, "train").events)}
    window = 5 * 97  # whole row groups, at least WINDOW_ROWS

    def places(epoch: int) -> np.ndarray:
        stream = Stream(many, "train", batch_size=window, memory_mb=0)
        batches = list(itertools.islice(stream.epoch(epoch), 4))
        return np.array([[stored[tuple(row)] for row in batch.events] for batch in batches])

    first, second = places(0), places(1)

    assert set(first[0] // 97) != set(second[0] // 97)  # other row groups come together
    in_group = first % 97
    assert np.mean(in_group[0] == in_group[1]) < 0.1  # and each window has its own order


def test_neighbours_on_disk_are_not_neighbours_in_an_epoch(many):
    stored = {tuple(row): place for place, row in enumerate(read_split(many, "train").events)}
    batches = list(Stream(many, "train", batch_size=100).epoch(0))
    places = np.array([stored[tuple(row)] for batch in batches for row in batch.events])

    assert np.mean(np.abs(np.diff(places)) == 1) < 0.01


@settings(deadline=None, max_examples=15)
@given(start=st.integers(0, 37), epoch=st.integers(0, 3), cached=st.booleans())
def test_an_epoch_entered_anywhere_goes_on_as_the_whole_one(many, start, epoch, cached):
    stream = Stream(many, "train", batch_size=100, memory_mb=512 if cached else 0)
    whole = list(Stream(many, "train", batch_size=100, memory_mb=0).epoch(epoch))

    assert stream.batches == 37
    assert same(list(stream.epoch(epoch, start=start)), whole[start:])


def test_entering_late_decodes_only_what_follows(many, decoded):
    stream = Stream(many, "train", batch_size=100, memory_mb=0)

    list(stream.epoch(0, start=stream.batches - 1))

    assert 1 <= len(decoded) <= 6  # one window of row groups, of 38


def test_cached_batches_are_the_streamed_ones(many, monkeypatch):
    cached = Stream(many, "train", batch_size=170, memory_mb=512)
    streamed = Stream(many, "train", batch_size=170, memory_mb=0)
    list(cached.epoch(5))

    for epoch in range(3):
        assert same(list(cached.epoch(epoch)), list(streamed.epoch(epoch)))

    monkeypatch.setattr(streaming._Table, "decode", None)  # from memory alone
    assert len(list(cached.epoch(9))) == cached.batches


def test_data_beyond_the_budget_is_not_kept(many, decoded):
    size = 3602 * 4 * 4
    for budget, times in ((size / 1e6, 1), ((size - 1) / 1e6, 2)):
        decoded.clear()
        stream = Stream(many, "train", batch_size=500, memory_mb=budget)
        list(stream.epoch(0))
        list(stream.epoch(1))

        assert set(Counter(decoded).values()) == {times}


def test_a_consumer_may_change_and_keep_its_batches(many):
    for memory_mb in (0, 512):
        stream = Stream(many, "train", batch_size=90, memory_mb=memory_mb)
        kept = []
        for batch in stream.epoch(0):
            kept.append(Batch(batch.events.copy(), batch.conditions.copy()))
            batch.events[:] = -1
            batch.conditions[:] = -1

        assert same(kept, list(stream.epoch(0)))


def test_without_shuffling_rows_come_in_file_order(many):
    stream = Stream(many, "val", batch_size=77, shuffle=False, memory_mb=0)

    for epoch in (0, 3):
        events = np.concatenate([batch.events for batch in stream.epoch(epoch)])
        np.testing.assert_array_equal(events, read_split(many, "val").events)


def test_closing_early_ends_the_thread(many):
    for memory_mb in (0, 512):
        epoch = Stream(many, "train", batch_size=10, memory_mb=memory_mb).epoch(0)
        list(itertools.islice(epoch, 3))
        epoch.close()  # `no_thread_left` looks for it


def test_an_epoch_that_is_never_asked_starts_no_thread(many):
    Stream(many, "train", batch_size=10).epoch(0)

    assert not [t for t in threading.enumerate() if t.name.startswith("read-ahead")]


def test_reading_goes_on_while_the_consumer_works(many, decoded):
    epoch = Stream(many, "train", batch_size=250, memory_mb=0).epoch(0)
    next(epoch)
    before = len(decoded)
    deadline = time.monotonic() + 10
    while len(decoded) <= before and time.monotonic() < deadline:
        time.sleep(0.01)
    ahead = len(decoded)
    time.sleep(0.2)
    epoch.close()

    assert ahead > before or before > 6
    assert len(decoded) < 30  # and it waits: not the whole epoch of 38 groups is taken in


def test_two_epochs_of_a_stream_run_side_by_side(many):
    stream = Stream(many, "train", batch_size=100)
    pairs = list(zip(stream.epoch(0), stream.epoch(1), strict=True))

    assert same([one for one, _ in pairs], list(stream.epoch(0)))
    assert same([other for _, other in pairs], list(stream.epoch(1)))


# ---- cells left out, cells alone

HELD_OUT = [{"Z": 0.001, "alpha": 5.0}, {"alpha": 1.0, "Z": 0.01}, {"Z": 0.0001, "alpha": 0.5}]


def of_held_out(conditions: np.ndarray) -> np.ndarray:
    named = np.array([(one["Z"], one["alpha"]) for one in HELD_OUT], np.float32)
    return (conditions[:, None] == named).all(axis=2).any(axis=1)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("shuffle", [True, False])
def test_the_cells_left_out_and_the_same_alone_are_the_whole_part(many, split, shuffle):
    options = {"batch_size": 64, "shuffle": shuffle, "memory_mb": 0}
    others = Stream(many, split, **options, without=HELD_OUT)
    alone = Stream(many, split, **options, only=HELD_OUT)

    without, only = list(others.epoch(0)), list(alone.epoch(0))

    assert rows(without) + rows(only) == rows([read_split(many, split)])
    assert not any(of_held_out(batch.conditions).any() for batch in without)
    assert all(of_held_out(batch.conditions).all() for batch in only)
    for stream, batches in ((others, without), (alone, only)):
        sizes = [len(batch.events) for batch in batches]
        assert sum(sizes) == stream.rows > 0
        assert len(sizes) == stream.batches
        assert set(sizes[:-1]) <= {64}


def test_rows_are_those_that_the_dataset_tells_of_the_cells(many):
    for split in SPLITS:
        for cell in Dataset.read(many).cells:
            name = dict(zip(("Z", "alpha"), cell.conditions, strict=True))

            stream = Stream(many, split, batch_size=10, only=[name])

            assert stream.rows == getattr(cell, split)


@settings(deadline=None, max_examples=15)
@given(start=st.integers(0, 24), epoch=st.integers(0, 3), cached=st.booleans())
def test_without_some_cells_an_epoch_entered_anywhere_goes_on_too(many, start, epoch, cached):
    options = {"batch_size": 100, "without": HELD_OUT}
    stream = Stream(many, "train", memory_mb=512 if cached else 0, **options)
    whole = list(Stream(many, "train", memory_mb=0, **options).epoch(epoch))

    assert stream.batches == len(whole) == 24
    assert same(list(stream.epoch(epoch, start=start)), whole[start:])


def test_all_cells_alone_are_the_batches_of_the_whole_part(many):
    cells = [dict(zip(("Z", "alpha"), c.conditions, strict=True)) for c in Dataset.read(many).cells]

    named = Stream(many, "train", batch_size=170, only=cells)
    whole = Stream(many, "train", batch_size=170)

    assert same(list(named.epoch(2)), list(whole.epoch(2)))
    assert list(Stream(many, "train", batch_size=170, without=cells).epoch(0)) == []


def test_without_some_cells_rows_keep_the_order_of_the_file(many):
    stored = read_split(many, "val")
    stream = Stream(many, "val", batch_size=77, shuffle=False, memory_mb=0, without=HELD_OUT)

    events = np.concatenate([batch.events for batch in stream.epoch(0)])

    np.testing.assert_array_equal(events, stored.events[~of_held_out(stored.conditions)])


def test_a_row_group_without_a_row_to_read_is_not_decoded(many, decoded):
    stored = read_split(many, "train").conditions
    rare = {"Z": 0.0001, "alpha": 0.5}  # a handful of rows in 38 row groups
    there = {place // 97 for place in np.flatnonzero((stored == np.float32([1e-4, 0.5])).all(1))}
    stream = Stream(many, "train", batch_size=5, memory_mb=0, only=[rare])
    decoded.clear()

    list(stream.epoch(0))

    assert len(decoded) == len(there) < 20


def test_nothing_is_read_twice_where_no_cell_is_named(many, monkeypatch):
    monkeypatch.setattr(streaming._Table, "fill", None)

    Stream(many, "train", batch_size=100, without=[])


@pytest.mark.parametrize("value", [0.0001, float(np.float32(0.0001)), np.float32(0.0001)])
def test_a_cell_is_named_in_single_or_double_precision(many, value):
    assert Stream(many, "val", batch_size=10, only=[{"Z": value, "alpha": 5}]).rows > 0


# ---- refusals


@pytest.mark.parametrize(
    ("named", "messages"),
    [
        pytest.param(
            [{"Z": 0.0012, "alpha": 1.0}],
            ["Z = 0.0012, alpha = 1 is no cell of it: the nearest are Z = 0.001, alpha = 1; "],
            id="nearest",
        ),
        pytest.param(
            [{"Z": 0.001, "alpha": -1.0}], ["nearest are Z = 0.001, alpha = 0.5; "], id="negative"
        ),
        pytest.param(
            [{"Z": 0.001}],
            ["Z = 0.001 must name Z and alpha: missing alpha, unknown none"],
            id="missing",
        ),
        pytest.param(
            [{"Z": 0.001, "alpha": 1.0, "q": 2.0}], ["missing none, unknown q"], id="unknown"
        ),
        pytest.param([{}], ["a cell without a condition must name Z and alpha"], id="empty"),
        pytest.param(
            [{"Z": 0.001, "alpha": 1.0}, {"alpha": 1, "Z": np.float32(0.001)}],
            ["alpha = 1, Z = 0.001 is named twice"],
            id="twice",
        ),
        pytest.param(
            [{"Z": 7.0, "alpha": 1.0}, {"z": 0.001, "alpha": 1.0}, {"Z": float("nan"), "alpha": 1}],
            ["Z = 7, alpha = 1 is no cell", "missing Z, unknown z", "Z = nan, alpha = 1 is no"],
            id="all-at-once",
        ),
    ],
)
def test_a_cell_that_is_not_there_is_named_with_all_other_faults(many, named, messages):
    for how in ("without", "only"):
        with pytest.raises(DataError) as caught:
            Stream(many, "train", batch_size=10, **{how: named})
        assert all(message in str(caught.value) for message in messages)
        assert str(many) in str(caught.value)


def test_cells_that_dataset_json_counts_otherwise_are_noticed(many, tmp_path):
    folder = copy_of(many, tmp_path / "copy")
    dataset = Dataset.read(folder)
    first, *others = dataset.cells
    replace(dataset, cells=(replace(first, train=first.train + 1), *others)).write(folder)
    name = dict(zip(("Z", "alpha"), first.conditions, strict=True))

    with pytest.raises(DataError, match=r"the train part has \d+ rows in the cells .* again"):
        Stream(folder, "train", batch_size=10, only=[name])


def test_cells_are_named_one_way(many):
    with pytest.raises(ValueError, match="left out or read alone, not both"):
        Stream(many, "train", batch_size=10, without=HELD_OUT, only=HELD_OUT)


def copy_of(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def test_a_damaged_part_is_named_where_the_batches_are_asked_for(many, tmp_path):
    folder = copy_of(many, tmp_path / "copy")
    part = sorted((folder / "train").iterdir())[1]
    content = bytearray(part.read_bytes())
    content[4:5000] = bytes(4996)
    part.write_bytes(content)
    stream = Stream(folder, "train", batch_size=100, memory_mb=0)

    with pytest.raises(DataError, match="cannot be decoded .* prepare the data again") as caught:
        list(stream.epoch(0))
    assert str(part) in str(caught.value)
    with pytest.raises(DataError, match=part.name):
        read_split(folder, "train")


def test_a_part_cut_off_is_named_at_once(many, tmp_path):
    folder = copy_of(many, tmp_path / "copy")
    part = sorted((folder / "train").iterdir())[0]
    part.write_bytes(part.read_bytes()[:-100])

    with pytest.raises(DataError, match=part.name):
        Stream(folder, "train", batch_size=100)


def test_a_lost_part_is_noticed(many, tmp_path):
    folder = copy_of(many, tmp_path / "copy")
    sorted((folder / "train").iterdir())[0].unlink()

    with pytest.raises(DataError, match="holds 2632 rows where .*dataset.json says 3602"):
        Stream(folder, "train", batch_size=100)


def test_a_part_that_vanishes_while_streaming_is_named(many, tmp_path):
    folder = copy_of(many, tmp_path / "copy")
    stream = Stream(folder, "train", batch_size=100, memory_mb=0)
    for part in (folder / "train").iterdir():
        part.unlink()

    with pytest.raises(DataError, match=r"part-0000\d.parquet cannot be decoded"):
        list(stream.epoch(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"batch_size": 0}, "batch_size must be at least 1, got 0", id="batch-size"),
        pytest.param({"memory_mb": -1}, "memory_mb must be at least 0, got -1", id="memory"),
        pytest.param({"split": "valid"}, "no part 'valid': choose one of train", id="split"),
    ],
)
def test_bad_options_are_refused(many, options, message):
    with pytest.raises(ValueError, match=message):
        Stream(many, **{"split": "train", "batch_size": 10, **options})


@pytest.mark.parametrize("start", [-1, 38])
def test_a_position_outside_the_epoch_is_refused(many, start):
    with pytest.raises(ValueError, match=rf"start must lie in \[0, 37\], got {start}"):
        Stream(many, "train", batch_size=100).epoch(0, start=start)


# ---- bags


def bagged(folder: Path, bag: int | None, **options) -> Counter[tuple[float, ...]]:
    return rows(list(Stream(folder, "train", batch_size=100, bag=bag, **options).epoch(0)))


def test_a_bag_draws_the_rows_of_every_cell_with_replacement(many):
    stored = [*rows([read_split(many, "train")])]
    bags = [bagged(many, seed) for seed in range(40)]
    times_BN = np.array([[bag[row] for row in stored] for bag in bags])

    assert all(set(bag) <= set(stored) for bag in bags)
    # Poisson numbers of mean one: as many of each as there should be, within six standard errors.
    for number, share in enumerate((0.3679, 0.3679, 0.1839, 0.0613)):
        assert (times_BN == number).mean() == pytest.approx(share, abs=6 * 0.5 / times_BN.size**0.5)
    for cell in Dataset.read(many).cells:
        inside_N = [row[2:] == tuple(np.float32(cell.conditions).tolist()) for row in stored]
        drawn = times_BN[:, inside_N]
        assert drawn.mean() == pytest.approx(1, abs=6 / drawn.size**0.5)


def test_bags_of_two_seeds_and_rows_of_one_bag_know_nothing_of_each_other(many):
    stored = [*rows([read_split(many, "train")])]
    times_BN = np.array([[bag[row] for row in stored] for bag in (bagged(many, k) for k in (0, 1))])
    bound = 5 / len(stored) ** 0.5

    assert abs(np.corrcoef(times_BN)[0, 1]) < bound
    # Nor do the rows of two row groups, at the same place in each.
    for distance in (1, 97, 970):
        assert abs(np.corrcoef(times_BN[0, distance:], times_BN[0, :-distance])[0, 1]) < bound


@settings(deadline=None, max_examples=10)
@given(share=st.floats(0, 1), epoch=st.integers(0, 3), cached=st.booleans(), some=st.booleans())
def test_a_bag_is_the_same_in_every_epoch_and_entered_anywhere(many, share, epoch, cached, some):
    options = {"batch_size": 100, "bag": 7, "without": HELD_OUT if some else ()}
    stream = Stream(many, "train", memory_mb=512 if cached else 0, **options)
    whole = list(Stream(many, "train", memory_mb=0, **options).epoch(epoch))
    start = int(share * stream.batches)

    assert sum(len(batch.events) for batch in whole) == stream.rows
    assert rows(whole) == bagged(many, 7, without=options["without"])
    assert same(list(stream.epoch(epoch, start=start)), whole[start:])


def test_the_bag_of_some_cells_has_their_rows_of_the_bag_of_all(many):
    whole, some = bagged(many, 3), bagged(many, 3, without=HELD_OUT)

    assert some == Counter({r: n for r, n in whole.items() if not of_held_out(np.array([r[2:]]))})


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 9), epoch=st.integers(0, 3), bag=st.none() | st.integers(0, 2))
def test_rows_in_memory_in_their_order_are_the_batches(many, seed, epoch, bag):
    def stream(seed: int) -> Stream:
        return Stream(many, "train", batch_size=100, seed=seed, bag=bag, without=HELD_OUT)

    kept, order = stream(seed).in_memory(epoch)

    whole = list(stream(seed).epoch(epoch))
    parts = np.split(order, range(100, len(order), 100))
    assert same([kept.take(rows) for rows in parts], whole)
    other, _ = stream(seed + 1).in_memory(epoch + 1)
    assert same([other], [kept])
    assert Stream(many, "train", batch_size=100, memory_mb=0).in_memory(0) is None
