"""Row filters as people type them: `Mass_0 > 3 and Z != 0.03`.

The text is parsed with `ast`, walked against a short list of what is allowed, and evaluated by
this module with numpy. It is never compiled or evaluated as Python, so it can hold no call,
attribute, subscript or import.

A condition is a comparison (`<`, `<=`, `>`, `>=`, `==`, `!=`, `in (..)`, `not in (..)`, chains
such as `3 < Mass_0 <= 40`), joined by `and`, `or`, `not` and parentheses. A side of a comparison
is a column, a number, a text in quotes, or `+ - * /` of numbers. A missing value (None or NaN)
matches no comparison, not even `!=`; `not` turns that round like any other answer.
"""

from __future__ import annotations

import ast
import difflib
import operator
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import InputError

MAX_LENGTH = 1000
"""Characters in a filter."""
MAX_DEPTH = 40
"""Nested operations in a filter."""

Mask = NDArray[np.bool_]

_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_SHAPES = "a filter is made of comparisons such as `Mass_0 > 3`, joined by and, or, not"


class FilterError(InputError):
    """A filter that cannot be used. The message quotes it and says what to write."""


@dataclass(frozen=True, slots=True)
class _Side:
    """One side of a comparison: numbers (NaN where missing) or texts (None where missing)."""

    values: NDArray[Any]
    kind: str
    """number, text, or nothing (all missing, fits both)."""
    source: str


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
        tree = _parsed(text)
        used = _checked(tree, text, frozenset(names))
        return cls(text, used, tree)

    def mask(self, columns: Mapping[str, NDArray[Any]]) -> Mask:
        """Which rows match, shape `(rows,)`.

        Args:
            columns: Arrays of shape `(rows,)`, for at least the columns in `names`.

        Raises:
            FilterError: If a text is compared with a number.
        """
        rows = len(next(iter(columns.values()))) if columns else 1
        sides = {name: _side(np.asarray(columns[name]), name) for name in self.names}
        found: Mask = np.broadcast_to(_condition(self._tree, sides), (rows,)).copy()
        return found

    def matches(self, row: Mapping[str, object]) -> bool:
        """Whether one row matches; a column that the row lacks is a missing value."""
        cells = {name: _single(row.get(name), name) for name in self.names}
        return bool(_condition(self._tree, cells).all())


def _parsed(text: str) -> ast.expr:
    if not text.strip():
        raise FilterError(f"the filter is empty: {_SHAPES}")
    if len(text) > MAX_LENGTH:
        raise FilterError(
            f"the filter has {len(text)} characters, the longest allowed {MAX_LENGTH}"
        )
    try:
        # Only parsed: mode "eval" means one expression, nothing is run. What Python would warn of,
        # such as `3and`, it tells in its own terms, without the filter.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise FilterError(f"the filter {text!r} {_slip(text, error)}") from None


def _slip(text: str, error: BaseException) -> str:
    """What most likely went wrong, for the common slips of people who write SQL or C."""
    bare = text
    for sign in ("==", "!=", "<=", ">="):
        bare = bare.replace(sign, "")
    if "=" in bare:
        return "has a single =: write == to compare"
    if "&&" in text or "||" in text:
        return "has && or ||: write and, or"
    where = f" at character {error.offset}" if isinstance(error, SyntaxError) else ""
    return f"cannot be read{where}: {_SHAPES}"


def _checked(tree: ast.expr, text: str, known: frozenset[str]) -> frozenset[str]:
    """The columns used, once every node has been found in the list of what is allowed."""
    used: set[str] = set()

    def refuse(node: ast.AST, why: str) -> FilterError:
        part = ast.get_source_segment(text.strip(), node) or type(node).__name__
        return FilterError(f"the filter {text!r} cannot hold `{part}`: {why}")

    def condition(node: ast.expr, depth: int) -> None:
        limit(node, depth)
        match node:
            case ast.BoolOp(values=parts):
                for part in parts:
                    condition(part, depth + 1)
            case ast.UnaryOp(op=ast.Not(), operand=part):
                condition(part, depth + 1)
            case ast.Constant(value=bool()):
                pass
            case ast.Compare(left=left, ops=signs, comparators=others):
                side(left, depth + 1)
                for sign, other in zip(signs, others, strict=True):
                    compared(node, sign, other, depth + 1)
            case ast.BinOp(op=ast.BitAnd() | ast.BitOr()):
                raise refuse(node, "write and, or")
            case ast.Name() | ast.Constant():
                raise refuse(node, "compare it with something, as in `Mass_0 > 3`")
            case _:
                raise refuse(node, _SHAPES)

    def compared(node: ast.expr, sign: ast.cmpop, other: ast.expr, depth: int) -> None:
        if isinstance(sign, ast.In | ast.NotIn):
            if not isinstance(other, ast.Tuple | ast.List | ast.Set):
                raise refuse(other, "`in` needs a list, as in `Z in (0.001, 0.002)`")
            for element in other.elts:
                side(element, depth + 1)
        elif type(sign) in _COMPARISONS:
            side(other, depth)
        else:
            raise refuse(node, "compare with <, <=, >, >=, ==, !=, in, not in")

    def side(node: ast.expr, depth: int) -> None:
        limit(node, depth)
        match node:
            case ast.Name(id=name):
                if name not in known:
                    raise FilterError(f"the filter {text!r} {unknown_name(name, known)}")
                used.add(name)
            case ast.Constant(value=bool() | str()):
                pass
            case ast.Constant(value=int() | float() as number):
                finite(node, number)
            case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=part):
                side(part, depth + 1)
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _ARITHMETIC:
                side(left, depth + 1)
                side(right, depth + 1)
            case _:
                raise refuse(
                    node, "compare columns, numbers, texts in quotes and + - * / of numbers"
                )

    def finite(node: ast.expr, number: int | float) -> None:
        try:
            float(number)
        except OverflowError:
            raise refuse(node, "the number is too large") from None

    def limit(node: ast.expr, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise FilterError(
                f"the filter is nested deeper than {MAX_DEPTH} operations: split it up"
            )

    condition(tree, 1)
    return frozenset(used)


def unknown_name(name: str, known: Iterable[str]) -> str:
    """A clause for a column that is not there: the nearest name, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1) or [
        other for other in names if other.casefold() == name.casefold()
    ]
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names) or 'none'}"
    return f"has no column {name!r} to read: {hint}"


def _condition(node: ast.expr, sides: Mapping[str, _Side]) -> Mask:
    match node:
        case ast.BoolOp(op=joint, values=parts):
            join = np.logical_and if isinstance(joint, ast.And) else np.logical_or
            found = _condition(parts[0], sides)
            for part in parts[1:]:
                found = np.asarray(join(found, _condition(part, sides)), bool)
            return found
        case ast.UnaryOp(operand=part):
            return np.logical_not(_condition(part, sides))
        case ast.Constant(value=value):
            return np.full(1, bool(value))
        case ast.Compare():
            return _chain(node, sides)
    raise AssertionError(f"unchecked {ast.dump(node)}")


def _chain(node: ast.Compare, sides: Mapping[str, _Side]) -> Mask:
    found: Mask = np.full(1, True)
    left = _value(node.left, sides)
    for sign, other in zip(node.ops, node.comparators, strict=True):
        if isinstance(sign, ast.In | ast.NotIn):
            assert isinstance(other, ast.Tuple | ast.List | ast.Set)
            found = found & _among(left, other.elts, sides, isinstance(sign, ast.In))
        else:
            right = _value(other, sides)
            found = found & _compare(left, right, _COMPARISONS[type(sign)])
            left = right
    return found


def _among(
    left: _Side, elements: Iterable[ast.expr], sides: Mapping[str, _Side], wanted: bool
) -> Mask:
    found: Mask = np.full(1, False)
    for element in elements:
        found = found | _compare(left, _value(element, sides), operator.eq)
    return (found if wanted else ~found) & _present(left)


def _compare(left: _Side, right: _Side, sign: Callable[[Any, Any], Any]) -> Mask:
    if "nothing" not in (left.kind, right.kind) and left.kind != right.kind:
        text, number = (left, right) if left.kind == "text" else (right, left)
        raise FilterError(
            f"the filter compares {text.source}, which is text, with {number.source}, which is "
            "a number: put quotes around a text, none around a number"
        )
    both = np.broadcast_arrays(left.values, right.values)
    there: Mask = np.broadcast_to(_present(left) & _present(right), both[0].shape)
    found: Mask = np.zeros(both[0].shape, bool)
    found[there] = sign(both[0][there], both[1][there])
    return found


def _present(side: _Side) -> Mask:
    if side.kind == "number":
        missing: Mask = np.isnan(side.values)
        return ~missing
    return np.asarray(side.values != None, bool)  # noqa: E711  elementwise, over objects


def _value(node: ast.expr, sides: Mapping[str, _Side]) -> _Side:
    match node:
        case ast.Name(id=name):
            return sides[name]
        case ast.Constant(value=value):
            return _single(value, repr(value))
        case ast.UnaryOp(op=sign, operand=part):
            side = _number(_value(part, sides))
            return _Side(-side.values if isinstance(sign, ast.USub) else side.values, "number", "-")
        case ast.BinOp(left=left, op=operation, right=right):
            one, two = _number(_value(left, sides)), _number(_value(right, sides))
            with np.errstate(all="ignore"):
                result = _ARITHMETIC[type(operation)](one.values, two.values)
            return _Side(result, "number", ast.unparse(node))
    raise AssertionError(f"unchecked {ast.dump(node)}")


def _number(side: _Side) -> _Side:
    if side.kind == "text":
        raise FilterError(f"the filter calculates with {side.source}, which is text, not a number")
    if side.kind == "nothing":
        return _Side(np.full(side.values.shape, np.nan), "number", side.source)
    return side


def _side(values: NDArray[Any], name: str) -> _Side:
    if values.dtype.kind in "biuf":
        return _Side(values.astype(np.float64, copy=False), "number", f"column {name!r}")
    kind = "nothing" if all(value is None for value in values) else "text"
    return _Side(values.astype(object), kind, f"column {name!r}")


def _single(value: object, name: str) -> _Side:
    if isinstance(value, bool | int | float | np.number | np.bool_):
        return _Side(np.array([float(value)]), "number", name)
    kind = "nothing" if value is None else "text"
    return _Side(np.array([None if value is None else str(value)], object), kind, name)
