"""Conditions of texts: from a table to numbers with names, and back to names for people."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from data_prep import cells
from data_prep.dataset import Dataset
from data_prep.errors import DataError
from data_prep.preparation.prepare import prepare
from data_prep.stream import read_split

CONDITIONS = ("Z", "channel")


def a_table(rows=600, channels=("SMT", "CE", "RLO"), seed=0):
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "Mass_0": rng.uniform(5, 40, rows),
            "Mass_1": rng.uniform(5, 40, rows),
            "Z": rng.choice([0.0002, 0.002], rows),
            "channel": rng.choice(channels, rows),
        }
    )


def prepared(table, tmp_path, *, name="prepared", as_csv=False, **options):
    source = tmp_path / f"{name}.{'csv' if as_csv else 'parquet'}"
    (pa_csv.write_csv if as_csv else pq.write_table)(table, source)
    options = {"condition_columns": CONDITIONS, **options}
    return prepare([source], tmp_path / name, **options)


def texts_of(dataset, folder):
    """The text of each prepared row, by its masses."""
    (column,) = [one for one in dataset.condition_columns if one.name == "channel"]
    found = {}
    for split in ("train", "val", "test"):
        rows = read_split(folder, split)
        for event, number in zip(rows.events.tolist(), rows.conditions[:, 1], strict=True):
            found[tuple(event)] = column.value(float(number))
    return found


@pytest.mark.parametrize("kind", ["parquet", "csv", "categorical", "bytes"])
def test_every_row_keeps_its_text(tmp_path, kind):
    table = a_table()
    if kind in ("categorical", "bytes"):
        array = table["channel"].combine_chunks()
        array = array.dictionary_encode() if kind == "categorical" else array.cast(pa.binary())
        table = table.set_column(3, "channel", array)

    dataset = prepared(table, tmp_path, as_csv=kind == "csv")

    channel = dataset.condition_columns[1]
    assert channel.categories == ("CE", "RLO", "SMT")
    assert dataset == Dataset.read(tmp_path / "prepared")
    assert dataset.ranges["channel"] == (0, 2)
    assert len(dataset.cells) == 6
    masses = (np.float32(table[name]).tolist() for name in ("Mass_0", "Mass_1"))
    expected = dict(zip(zip(*masses, strict=True), a_table()["channel"].to_pylist(), strict=True))
    assert texts_of(dataset, tmp_path / "prepared") == expected


@pytest.mark.parametrize("scattered", [False, True], ids=["grid", "scattered"])
def test_numbers_are_those_of_the_sorted_texts_whatever_comes_first(tmp_path, scattered):
    table = a_table(rows=3_000)
    turned = table.take(pa.array(np.arange(3_000)[::-1]))

    one = prepared(table, tmp_path, name="one", scattered=scattered)
    other = prepared(turned, tmp_path, name="other", scattered=scattered)

    assert one.condition_columns == other.condition_columns
    assert texts_of(one, tmp_path / "one") == texts_of(other, tmp_path / "other")
    for dataset, folder in ((one, "one"), (other, "other")):
        stored = [read_split(tmp_path / folder, split).conditions for split in dataset.rows]
        assert sorted({*np.concatenate(stored)[:, 1].tolist()}) == [0, 1, 2]
        for cell in dataset.cells:
            found = cells.find(dataset, [cells.name_of(dataset, cell)], tmp_path)
            assert found == (cell,)


def test_texts_that_are_numbers_stay_numbers(tmp_path):
    """As MOBSE's conditions that pandas made categories of."""
    table = a_table()
    z = table["Z"].combine_chunks().cast(pa.string()).dictionary_encode()
    table = table.set_column(2, "Z", z)

    dataset = prepared(table, tmp_path)

    assert not dataset.condition_columns[0].categories
    assert dataset.ranges["Z"] == (0.0002, 0.002)


def test_a_dataset_without_texts_says_nothing_of_them(tmp_path):
    dataset = prepared(a_table(), tmp_path, condition_columns=("Z",))

    stored = json.loads((tmp_path / "prepared" / "dataset.json").read_text())
    assert stored["condition_columns"] == [{"name": "Z", "unit": "", "positive": True}]
    assert "categories" not in str(dataset.condition_columns[0].as_stored())


def test_a_filter_reads_texts(tmp_path):
    dataset = prepared(a_table(), tmp_path, where='channel != "CE"')

    assert dataset.condition_columns[1].categories == ("RLO", "SMT")


def test_texts_of_several_files_are_put_together(tmp_path):
    sources = []
    for number, channels in enumerate((("SMT",), ("CE", "SMT"))):
        sources.append(tmp_path / f"{number}.parquet")
        pq.write_table(a_table(channels=channels, seed=number), sources[-1])

    dataset = prepare(sources, tmp_path / "out", condition_columns=CONDITIONS)

    assert dataset.condition_columns[1].categories == ("CE", "SMT")
    assert [cell.conditions[1] for cell in dataset.cells] == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([f"binary {k}" for k in range(600)], r"over 64: is it a name or a number of each row\?"),
        (["CE"] * 599 + ["3"], None),
        (["CE"] * 599 + [""], r"column 'channel', row 600: the empty value is no text"),
        (["CE"] * 599 + ["nan"], r"row 600: the empty value is no text"),
        (["1"] * 599 + ["CE"], r"column 'channel', row 600: 'CE' is not a number"),
        (["CE\x1b[2J"] * 600, r"must be printable texts"),
        (["C" * 201] * 600, r"201 characters, over 200"),
    ],
    ids=["many", "one like a number", "empty", "nan", "numbers", "control", "long"],
)
@pytest.mark.parametrize("as_csv", [True, False], ids=["csv", "parquet"])
def test_texts_that_are_no_categories_are_refused(tmp_path, values, told, as_csv):
    table = a_table().set_column(3, "channel", pa.array(values))
    if told is None:
        assert prepared(table, tmp_path, as_csv=as_csv).condition_columns[1].categories
        return

    with pytest.raises(DataError, match=told):
        prepared(table, tmp_path, as_csv=as_csv)


def test_rows_without_a_text_can_be_left_out(tmp_path):
    table = a_table().set_column(3, "channel", pa.array([*["CE", "SMT"] * 299, None, "--"]))

    dataset = prepared(table, tmp_path, drop_invalid=True)

    assert dataset.dropped == {"no text": 2}


def test_a_file_of_numbers_beside_one_of_texts_is_refused(tmp_path):
    sources = [tmp_path / "texts.parquet", tmp_path / "numbers.parquet"]
    pq.write_table(a_table(), sources[0])
    pq.write_table(a_table().set_column(3, "channel", pa.array(np.arange(600.0))), sources[1])

    with pytest.raises(DataError, match="numbers.parquet, column 'channel': it holds numbers"):
        prepare(sources, tmp_path / "out", condition_columns=CONDITIONS)


@pytest.mark.parametrize(
    ("named", "told"),
    [
        (
            {"Z": 0.002, "channel": "HG"},
            r"channel = HG is no cell of it: channel must be one of CE",
        ),
        ({"Z": 0.002, "channel": 1.0}, r"channel must be one of CE, RLO, SMT, got 1.0"),
        ({"Z": 0.0021, "channel": "RLO"}, r"nearest are Z = 0.002, channel = RLO; Z = 0.0002, ch"),
        ({"Z": "CE", "channel": "CE"}, r"Z must be a number, got 'CE'"),
    ],
    ids=["unknown", "number", "no cell", "text for a number"],
)
def test_cells_are_named_by_their_texts(tmp_path, named, told):
    dataset = prepared(a_table(), tmp_path)

    with pytest.raises(DataError, match=told):
        cells.find(dataset, [named], tmp_path)
    (found,) = cells.find(dataset, [{"Z": 0.002, "channel": "RLO"}], tmp_path)
    assert cells.text_of(dataset, found) == "Z = 0.002, channel = RLO"


def test_all_cells_of_a_text_cannot_be_held_out(tmp_path):
    dataset = prepared(a_table(), tmp_path)
    one, other = ({"Z": z, "channel": "CE"} for z in (0.0002, 0.002))

    left = cells.without(dataset, [one], tmp_path)

    assert left.condition_columns == dataset.condition_columns
    with pytest.raises(DataError, match="no cell of channel = CE is left to train on"):
        cells.without(dataset, [one, other], tmp_path)


def totals(tmp_path, rows):
    path = tmp_path / "totals.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_totals_tell_channels_apart(tmp_path):
    cells_ = [(z, text) for z in ("0.0002", "0.002") for text in ("SMT", "CE", "RLO")]
    rows = [f"{z},{text},{1000 * (1 + k)}" for k, (z, text) in enumerate(cells_)]
    path = totals(tmp_path, ["Z,channel,simulated_binaries", *rows])

    dataset = prepared(a_table(), tmp_path, totals=path)

    found = [(one.conditions, one.simulated) for one in dataset.totals]
    assert found == [
        ((0.0002, 0), 2000), ((0.0002, 1), 3000), ((0.0002, 2), 1000),
        ((0.002, 0), 5000), ((0.002, 1), 6000), ((0.002, 2), 4000),
    ]  # fmt: skip


def test_totals_that_do_not_are_of_every_channel(tmp_path):
    rows = ["Z,simulated_binaries", "0.0002,7000", "0.002,8000", "0.02,9000"]

    dataset = prepared(a_table(), tmp_path, totals=totals(tmp_path, rows))

    assert len(dataset.totals) == 9
    assert {(one.conditions[0], one.simulated) for one in dataset.totals} == {
        (0.0002, 7000), (0.002, 8000), (0.02, 9000),
    }  # fmt: skip
    assert [one.mergers for one in dataset.totals[-3:]] == [0, 0, 0]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (["0.002,HG,10"], r"channel must be one of CE, RLO, SMT, got 'HG': no row of the data"),
        (["0.002,CE,1000", "0.002,CE,1000"], r"row 2: Z = 0.002, channel = CE was in row 1"),
        (["0.002,,1000"], r"row 1: the empty value is no text"),
        (["0.002,CE,1000"], r"no row for Z = 0.0002, channel = CE and 4 other cells"),
    ],
    ids=["unknown", "twice", "empty", "missing"],
)
def test_totals_of_texts_that_cannot_be(tmp_path, rows, told):
    path = totals(tmp_path, ["Z,channel,simulated_binaries", *rows])

    with pytest.raises(DataError, match=told):
        prepared(a_table(), tmp_path, totals=path)
