import csv
import io
import json
import math
import re

import pytest

from hpo.records.listing import FORMATS, render

ROWS = [
    {"trial": 1, "activation": "relu", "nll": 5.08, "rate": -1.5e-4, "batch_norm": True},
    {"trial": 12, "activation": "50%_{tanh} & more", "nll": 5.07929, "rate": None},
    {"trial": 3, "activation": None, "nll": math.nan, "rate": 0.25, "batch_norm": False},
]


def test_json_reads_back_as_the_rows_with_null_for_what_is_not_there():
    read = json.loads(render(ROWS, "json"))

    assert [each["nll"] for each in read] == [5.08, 5.07929, None]
    assert [each["batch_norm"] for each in read] == [True, None, False]


def test_csv_reads_back_with_every_digit_and_nothing_for_none():
    read = list(csv.DictReader(io.StringIO(render(ROWS, "csv"))))

    assert [each["activation"] for each in read] == ["relu", "50%_{tanh} & more", ""]
    assert float(read[1]["nll"]) == 5.07929
    assert [each["batch_norm"] for each in read] == ["true", "", "false"]


def test_csv_keeps_commas_quotes_and_newlines_inside_their_cell():
    awkward = 'a "b", c\nd'

    assert list(csv.reader(io.StringIO(render([{"reason": awkward}], "csv"))))[1] == [awkward]


def test_a_table_has_a_line_for_each_row_and_no_escape_codes_away_from_a_terminal():
    lines = render(ROWS, "table").splitlines()

    assert len(lines) == 1 + len(ROWS)
    assert all("\x1b" not in line for line in lines)
    assert lines[0].split() == ["trial", "activation", "nll", "rate", "batch_norm"]


def test_decimal_points_of_a_column_stand_below_each_other():
    lines = render([{"nll": 5.08}, {"nll": 5.07929}, {"nll": 12.5}], "table").splitlines()[1:]

    assert [line.strip() for line in lines] == ["5.0800", "5.0793", "12.5000"]
    assert len({line.index(".") for line in lines}) == 1


def test_small_numbers_keep_their_digits():
    assert "-1.0478e-04" in render([{"rate": -0.000104777}, {"rate": 0.1}], "table")


def test_short_small_numbers_are_written_out():
    lines = render([{"Z": 0.0001}, {"Z": 0.03}], "table").splitlines()[1:]

    assert [line.strip() for line in lines] == ["0.0001", "0.0300"]


def test_a_column_of_different_things_gives_each_its_own_size():
    rows = [{"value": 4.3211}, {"value": 2.5e6}, {"value": 1.2e-5}]

    lines = render(rows, "table").splitlines()[1:]

    assert [line.strip() for line in lines] == ["4.3211", "2.5e+06", "1.2e-05"]


def test_none_is_a_dash_in_a_table():
    assert render([{"a": None, "b": 1}], "table").splitlines()[1].split() == ["-", "1"]


def test_a_number_that_does_not_fit_is_left_out_and_never_squeezed(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    row = {f"column_{i}": 10**29 + i for i in range(20)}

    text = render([row], "table", more="look elsewhere")

    table, _, told = text.partition("\n\n")
    assert table.split() == [*list(row)[:2], *map(str, list(row.values())[:2])]
    assert all(name in told for name in list(row)[2:])
    assert told.endswith("look elsewhere")
    whole = render([row], "table", fit=False).splitlines()
    assert [line.split() for line in whole] == [list(row), [str(one) for one in row.values()]]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_table_fits_the_terminal_and_keeps_its_first_columns(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    words = "a long reason of many words, " * 5
    row = {"trial": 3, "nll": 4.2158, "reason": words} | {f"option {i}": i for i in range(30)}

    lines = render([row] * 3, "table").splitlines()

    assert max(map(len, lines)) <= width
    assert lines[0].split()[:3] == ["trial", "nll", "reason"]
    said = "".join(line[14:] for line in lines[1:] if not line[:1].isdigit())
    assert "many" in said or width == 200


def test_a_head_gives_way_before_a_number_does(monkeypatch):
    monkeypatch.setenv("COLUMNS", "16")

    lines = render([{"learning rate": 0.00636, "batch size": 512}], "table").splitlines()

    assert [line.split() for line in lines] == [
        ["learning", "batch"],
        ["rate", "size"],
        ["0.00636", "512"],
    ]


def test_a_terminal_gets_ruled_heads(monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)

    assert render([{"reason": "x" * 9}], "table").splitlines()[1] == "-" * 9


def test_what_a_file_smuggles_in_does_not_reach_the_terminal():
    text = render([{"host": "\x1b[31mred\x1b[0m\nnext", "name": "[bold]"}], "table")

    assert "\x1b" not in text
    assert len(text.splitlines()) == 2
    assert "[bold]" in text


def test_latex_escapes_what_latex_reads():
    text = render([{"a_b": r"\50% & #1 $x$ {y} ~ ^ <z>"}], "latex")

    assert " a\\_b " in text
    assert (
        r" \textbackslash{}50\% \& \#1 \$x\$ \{y\} \textasciitilde{} \^{} "
        r"\ensuremath{<}z\ensuremath{>} \\"
    ) in text


def test_latex_has_as_many_cells_in_each_line_as_columns():
    text = render(ROWS, "latex")

    preamble = re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert preamble is not None
    assert preamble[1] == "rlrrl"
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {len(preamble[1]) - 1}
    assert [text.count(rf"\{rule}rule") for rule in ("top", "mid", "bottom")] == [1, 1, 1]
    assert text.endswith(r"\end{tabular}")


def test_latex_sets_numbers_in_mathematics_and_leaves_text_that_looks_like_one():
    text = render([{"rate": -1.5e-5, "label": "-7"}], "latex")

    assert r"$-1.5000 \times 10^{-5}$ & -7 " in text


def test_a_line_of_latex_cannot_begin_with_an_optional_argument():
    assert "{[}1pt] " in render([{"label": "[1pt]"}], "latex")


@pytest.mark.parametrize("format", FORMATS)
def test_columns_choose_and_order_and_may_be_absent(format):
    text = render(ROWS, format, columns=["nll", "trial", "absent"])

    assert "activation" not in text
    assert text.index("nll") < text.index("trial") < text.index("absent")


@pytest.mark.parametrize("format", FORMATS)
def test_no_rows_are_no_fault(format):
    assert isinstance(render([], format), str)


@pytest.mark.parametrize("format", FORMATS)
def test_a_nested_value_is_written_as_json(format):
    text = render([{"kernel": {"a": [1, 2.5]}}], format)

    assert (
        "".join(text.split())
        .replace("\\", "")
        .replace("{[}", "[")
        .replace('""', '"')
        .count('"a":[1,2.5]')
    )


def test_latex_sets_a_number_and_its_error_as_one():
    text = render([{"nll": "4.216 +- 0.014", "draws": "+1,200 +- 20", "label": "a +- b"}], "latex")

    assert r"$4.216 \pm 0.014$ & $+1{,}200 \pm 20$ & a +- b " in text


def test_a_column_of_marks_may_have_no_mark_and_no_name():
    rows = [{"Z": 0.001, "": "", "NLL": 4.2}]

    assert [line.split() for line in render(rows, "table").splitlines()] == [
        ["Z", "NLL"],
        ["0.001", "4.2"],
    ]
