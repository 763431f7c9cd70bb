"""`dataset.json`: written and read back, refused when it is not one."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from data_prep.columns import Column
from data_prep.dataset import SAMPLE, Cell, Dataset
from data_prep.errors import DataError

DATASET = Dataset(
    event_columns=(Column("Mass_0", "Msun", True),),
    condition_columns=(Column("Z", "", True),),
    rows={"train": 3, "val": 1, "test": 1},
    cells=(Cell((0.0001,), 3, 1, 1),),
    ranges={"Mass_0": (5.0, 40.0), "Z": (0.0001, 0.0001)},
    fingerprint="ab" * 32,
    sources=({"file": "a.csv", "rows": 5},),
    command="hpo prepare a [b]\n{c}",
    where='Mass_0 > 3 and channel == "I"',
    dropped={"where": 2},
)


def test_a_dataset_is_read_back_as_it_was_written(tmp_path):
    path = DATASET.write(tmp_path)

    assert Dataset.read(tmp_path) == DATASET
    assert json.loads(path.read_text())["schema"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["dataset.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(None, "is not a prepared dataset .* make one with `hpo prepare", id="none"),
        pytest.param("{", "is not JSON: .* prepare the dataset again", id="cut-off"),
        pytest.param("[]", "is not a dataset.json: .* prepare", id="list"),
        pytest.param("{}", "is not a dataset.json: .* prepare", id="empty"),
        pytest.param('{"schema": 1, "rows": {}}', "is not a dataset.json", id="incomplete"),
        pytest.param('{"schema": 99}', "newer version .schema 99, .* upgrade", id="newer"),
    ],
)
def test_what_is_no_dataset_is_refused_by_name(tmp_path, text, message):
    if text is not None:
        (tmp_path / "dataset.json").write_text(text)

    with pytest.raises(DataError, match=message) as caught:
        Dataset.read(tmp_path)

    assert str(tmp_path) in str(caught.value)


def test_the_shipped_sample_is_whole_and_says_where_it_comes_from():
    sample = Dataset.read(SAMPLE)

    assert sum(sample.rows.values()) == 78_713
    assert len(sample.cells) == 36
    assert sample.bytes_after / 78_713 <= 7.3
    assert sample.command == "hpo prepare bbh_cosmic.parquet --out sample"
    assert "/" not in json.dumps(sample.sources)
    assert (SAMPLE / "README.md").exists()


def test_data_prep_loads_neither_torch_nor_optuna():
    program = (
        "import sys, data_prep.preparation.prepare, data_prep.stream; "
        "print(sorted({'torch', 'optuna', 'nflows', 'pandas'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert found.stdout.strip() == "[]", found.stderr
