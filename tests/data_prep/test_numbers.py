"""Numbers as people read them: what is told is the number, to the last digit that is told."""

import math
import re

import pytest

from data_prep.words.numbers import counted, duration, nll, short, size, with_error

UNITS_S = {"s": 1, "min": 60, "h": 3600, "d": 86400}
UNITS_B = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


@pytest.mark.parametrize(
    ("number", "told"), [(0, "0 workers"), (1, "1 worker"), (78_713, "78,713 workers")]
)
def test_things_are_counted_as_one_says_it(number, told):
    assert counted(number, "worker") == told


def test_a_duration_is_the_time_to_half_of_its_last_unit_whatever_its_size():
    for power in range(-12, 84):
        seconds = 1.37**power
        told = duration(seconds)
        parts = [
            (float(n.replace(",", "")), unit) for n, unit in re.findall(r"([\d.,]+) (\w+)", told)
        ]
        units = [UNITS_S[unit] for _, unit in parts]
        last = 0.05 if units == [1] else units[-1] / 2
        read = sum(number * UNITS_S[unit] for number, unit in parts)
        assert abs(read - seconds) <= last * 1.0001, told
        assert all(n < 60 for n, unit in parts[1:]), told
        assert len(told) <= 16


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0 s"),
        (0.4213, "0.421 s"),
        (14.8, "14.8 s"),
        (40, "40 s"),
        (59.96, "1 min 00 s"),
        (80, "1 min 20 s"),
        (3599.7, "1 h 00 min"),
        (11_100, "3 h 05 min"),
        (86_399, "1 d 00 h"),
    ],
)
def test_a_duration_reads_as_people_say_it(seconds, told):
    assert duration(seconds) == told


def test_a_size_is_the_bytes_to_three_digits():
    for power in range(44):
        bytes = round(1.9**power)
        number, unit = size(bytes).split()
        read = float(number.replace(",", "")) * UNITS_B[unit]
        assert math.isclose(read, bytes, rel_tol=5.1e-3), size(bytes)


def test_an_error_says_how_many_decimals_its_number_has():
    assert with_error(4.21576, 0.01413) == "4.216 +- 0.014"
    assert with_error(4.21576, 0.01413, between="±") == "4.216 ± 0.014"
    assert with_error(0.5, 0.2, sign="+") == "+0.50 +- 0.20"


@pytest.mark.parametrize("error", [None, 0.0, math.nan, math.inf])
def test_without_an_error_an_nll_has_four_decimals(error):
    assert with_error(4.21576, error) == nll(4.21576) == "4.2158"


@pytest.mark.parametrize(
    ("value", "told"),
    [(3, "3"), (123_456, "123,456"), (0.012345, "0.0123"), (1234.5, "1,230"), (0.0, "0")],
)
def test_a_short_number_has_three_digits_and_no_exponent(value, told):
    assert short(value) == told
