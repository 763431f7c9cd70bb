"""`--where`: a row filter such as `Mass_0 > 3 and Z != 0.03`, computed by Arrow.

A condition is a comparison (`<`, `<=`, `>`, `>=`, `==`, `!=`, `in (..)`, `not in (..)`, chains
such as `3 < Mass_0 <= 40`), joined by `and`, `or`, `not` and parentheses. A side of a comparison
is a column, a number, a text in quotes, or `+ - * /` of numbers. The name of a column that is no
plain word stands in back-quotes, as pandas has it. A missing value (None or NaN) matches no
comparison, not even `!=`; `not` turns that round like any other answer.

The text is parsed with `ast`, and each node of a short list of allowed ones becomes a call of
`pyarrow.compute`. Nothing is compiled or evaluated as Python, so a filter can hold no call,
attribute, subscript or import.
"""

from __future__ import annotations

import ast
import functools
import itertools
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_prep.errors import InputError, suggestion

MAX_LENGTH = 1000
"""Characters in a filter."""
MAX_DEPTH = 40
"""Nested operations in a filter."""

Mask = NDArray[np.bool_]
Values: TypeAlias = pa.Array | pa.Scalar

_ARITHMETIC = {ast.Add: pc.add, ast.Sub: pc.subtract, ast.Mult: pc.multiply, ast.Div: pc.divide}
_COMPARISONS = {
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
}
_SHAPES = "a filter is made of comparisons such as `Mass_0 > 3`, joined by and, or, not"


class FilterError(InputError):
    """A filter that cannot be used. The message quotes it and says what to write."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A parsed row filter."""

    text: str
    names: frozenset[str]
    """The columns it reads."""
    _tree: ast.expr

    @classmethod
    def parse(cls, text: str, names: Iterable[str]) -> Filter:
        """Read a filter over columns of these names.

        Raises:
            FilterError: If it is not a filter, or reads an unknown column (suggests the nearest).
        """
        names = sorted(names, key=len, reverse=True)
        try:
            tree = _parsed(text)
            # A row without values checks all but the kinds of the columns.
            _Evaluation(text, dict.fromkeys(names, pa.scalar(None))).condition(tree)
        except FilterError:
            bare = re.sub("`[^`]*`", "", text)
            if name := next((n for n in names if not n.isidentifier() and n in bare), None):
                raise FilterError(
                    f"the filter {text!r} names a column that is no plain word: put back-quotes "
                    f"around it, `{name}`"
                ) from None
            raise
        used = (node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
        return cls(text, frozenset(used), tree)

    def mask(self, columns: Mapping[str, NDArray[Any] | pa.Array]) -> Mask:
        """Which rows match, shape `(rows,)`.

        Args:
            columns: Arrays of shape `(rows,)`, for at least the columns in `names`: numbers in
                double precision, or texts.

        Raises:
            FilterError: If a text is compared with a number.
        """
        rows = len(next(iter(columns.values()))) if columns else 1
        read = {name: _column(columns[name]) for name in self.names}
        found = _Evaluation(self.text, read).condition(self._tree)
        if isinstance(found, pa.Scalar):
            return np.full(rows, found.as_py())
        return np.asarray(found.to_numpy(zero_copy_only=False))

    def matches(self, row: Mapping[str, object]) -> bool:
        """Whether one row matches; a column that the row lacks is a missing value."""
        values = {name: _scalar(row.get(name)) for name in self.names}
        return bool(_Evaluation(self.text, values).condition(self._tree).as_py())


def _parsed(text: str) -> ast.expr:
    if not text.strip():
        raise FilterError(f"the filter is empty: {_SHAPES}")
    if len(text) > MAX_LENGTH:
        raise FilterError(
            f"the filter has {len(text)} characters, the longest allowed {MAX_LENGTH}"
        )
    plain, quoted = _unquoted(text.strip())
    try:
        # Only parsed: mode "eval" means one expression, nothing is run. A warning of Python,
        # such as of `3and`, would be in its own terms, without the filter.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            tree = ast.parse(plain, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise FilterError(f"the filter {text!r} {_slip(text, error)}") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            node.id = quoted.get(node.id, node.id)
    return tree


def _unquoted(text: str) -> tuple[str, dict[str, str]]:
    """The text with a word for each name in back-quotes, and the name that each word stands for.

    A word is as long in UTF-8 as what it stands for, so that places in the text stay what they are.
    """
    names: dict[str, str] = {}
    numbers = itertools.count()

    def word(match: re.Match[str]) -> str:
        if not match["name"]:
            return match[0]
        size = len(match[0].encode()) - 1
        found = next(each for number in numbers if (each := f"_{number:0{size}d}") not in text)
        names[found] = match["name"]
        return found

    return re.sub(r"""'[^']*'|"[^"]*"|`(?P<name>[^`]+)`""", word, text), names


def _slip(text: str, error: BaseException) -> str:
    """The likely mistake, for the common slips of people who write SQL or C."""
    if "=" in re.sub("[=!<>]=", "", text):
        return "has a single =: write == to compare"
    if text.count("`") % 2:
        return "has a back-quote without its partner: write `Mass(1)` > 3"
    if "&&" in text or "||" in text:
        return "has && or ||: write and, or"
    where = f" at character {error.offset}" if isinstance(error, SyntaxError) else ""
    return f"cannot be read{where}: {_SHAPES}"


@dataclass(frozen=True, slots=True)
class _Evaluation:
    """Checks a filter's tree while it is computed on columns.

    Values are float64 or texts, null where missing, and of the null type where all are missing.
    """

    text: str
    columns: Mapping[str, Values]

    def condition(self, node: ast.expr, depth: int = 1) -> Values:
        """The answer for each row, or one for all; never null."""
        self._limit(depth)
        match node:
            case ast.BoolOp(op=joint, values=nodes):
                join = pc.and_ if isinstance(joint, ast.And) else pc.or_
                return functools.reduce(join, [self.condition(part, depth + 1) for part in nodes])
            case ast.UnaryOp(op=ast.Not(), operand=part):
                return pc.invert(self.condition(part, depth + 1))
            case ast.Constant(value=bool(answer)):
                return pa.scalar(answer)
            case ast.Compare(left=left, ops=signs, comparators=others):
                links = []
                for sign, other in zip(signs, others, strict=True):
                    links.append(self._link(node, left, sign, other, depth + 1))
                    left = other
                return functools.reduce(pc.and_, links)
            case ast.BinOp(op=ast.BitAnd() | ast.BitOr()):
                raise self._refused(node, "write and, or")
            case ast.Name() | ast.Constant():
                raise self._refused(node, "compare it with something, as in `Mass_0 > 3`")
        raise self._refused(node, _SHAPES)

    def _link(
        self, chain: ast.expr, left: ast.expr, sign: ast.cmpop, right: ast.expr, depth: int
    ) -> Values:
        if compare := _COMPARISONS.get(type(sign)):
            return self._compared(compare, left, right, depth)
        if not isinstance(sign, ast.In | ast.NotIn):
            raise self._refused(chain, "compare with <, <=, >, >=, ==, !=, in, not in")
        if not isinstance(right, ast.Tuple | ast.List | ast.Set):
            raise self._refused(right, "`in` needs a list, as in `Z in (0.001, 0.002)`")
        there = pc.is_valid(self._side(left, depth))
        equals = [self._compared(pc.equal, left, one, depth) for one in right.elts]
        found = functools.reduce(pc.or_, equals, pa.scalar(False))
        return pc.and_(there, found if isinstance(sign, ast.In) else pc.invert(found))

    def _compared(
        self, compare: Callable[..., Values], left: ast.expr, right: ast.expr, depth: int
    ) -> Values:
        one, two = self._side(left, depth), self._side(right, depth)
        if pa.null() in (one.type, two.type):
            return pa.scalar(False)
        if _is_text(one) != _is_text(two):
            text, number = (left, right) if _is_text(one) else (right, left)
            raise FilterError(
                f"the filter compares {_named(text)}, which is text, with {_named(number)}, which "
                "is a number: put quotes around a text, none around a number"
            )
        # Each distinct text of a dictionary is compared once: it may be long, and in every row.
        if isinstance(one, pa.DictionaryArray) and isinstance(two, pa.Scalar):
            found = compare(one.dictionary, two).take(one.indices)
        elif isinstance(one, pa.Scalar) and isinstance(two, pa.DictionaryArray):
            found = compare(one, two.dictionary).take(two.indices)
        else:
            found = compare(one, two)
        return pc.fill_null(found, False)

    def _side(self, node: ast.expr, depth: int) -> Values:
        self._limit(depth)
        match node:
            case ast.Name(id=name) if name in self.columns:
                return self.columns[name]
            case ast.Name(id=name):
                raise FilterError(
                    f"the filter {self.text!r} has no column {name!r} to read: "
                    f"{suggestion(name, self.columns)}"
                )
            case ast.Constant(value=bool() | str() | int() | float() as value):
                try:
                    return _scalar(value)
                except OverflowError:
                    raise self._refused(node, "the number is too large") from None
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self._number(operand, depth + 1)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return pc.negate(self._number(operand, depth + 1))
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _ARITHMETIC:
                sides = (self._number(left, depth + 1), self._number(right, depth + 1))
                result = _ARITHMETIC[type(sign)](*sides)
                return pc.if_else(pc.is_nan(result), pa.scalar(None, pa.float64()), result)
        why = "compare columns, numbers, texts in quotes and + - * / of numbers"
        raise self._refused(node, why)

    def _number(self, node: ast.expr, depth: int) -> Values:
        values = self._side(node, depth)
        if _is_text(values):
            raise FilterError(
                f"the filter calculates with {_named(node)}, which is text, not a number"
            )
        return values.cast(pa.float64())

    def _limit(self, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise FilterError(
                f"the filter is nested deeper than {MAX_DEPTH} operations: split it up"
            )

    def _refused(self, node: ast.AST, why: str) -> FilterError:
        part = ast.get_source_segment(self.text.strip(), node) or type(node).__name__
        return FilterError(f"the filter {self.text!r} cannot hold `{part}`: {why}")


def _named(side: ast.expr) -> str:
    return f"column {side.id!r}" if isinstance(side, ast.Name) else ast.unparse(side)


def _is_text(values: Values) -> bool:
    return not (pa.types.is_float64(values.type) or pa.types.is_null(values.type))


def _column(values: NDArray[Any] | pa.Array) -> pa.Array:
    if isinstance(values, pa.Array):
        return values
    if values.dtype.kind in "biuf":
        return pa.array(values.astype(np.float64, copy=False), from_pandas=True)
    return pa.array([None if value is None else _storable(value) for value in values])


def _scalar(value: object) -> pa.Scalar:
    if isinstance(value, bool | int | float | np.number | np.bool_):
        return pa.scalar(float(value), pa.float64(), from_pandas=True)
    return pa.scalar(None if value is None else _storable(value))


def _storable(value: object) -> str:
    """A text that Arrow takes: half a surrogate pair, which JSON can hold, is spelled out."""
    return str(value).encode("utf-8", "backslashreplace").decode()
