"""Conditions on runs, such as `recipe == "era" and test_accuracy > 0.9`: a small part of Python's expressions.

A condition has names of columns, numbers, text, True, False and None, lists of them, comparisons (also `in`), `and`,
`or`, `not`, and `+ - * /` with numbers. It is parsed by `ast` and computed here; nothing of it is executed by Python.
"""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any

from fastcifar.errors import ConfigError, closest

EXAMPLE = """write it as in --where 'recipe == "era" and test_accuracy > 0.9'"""
TOO_DEEP = "the condition is nested too deeply; shorten it"

Row = Mapping[str, Any]
Condition = Callable[[Row], bool]
Value = Callable[[Row], Any]

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.In: lambda x, xs: x in xs, ast.NotIn: lambda x, xs: x not in xs,
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip


def parse_condition(text: str, columns: Collection[str]) -> Condition:
    """Return the function that tells whether a row, a value by column, meets a condition.

    A comparison with a value that a run does not have is False, apart from `== None` and `!= None`, which ask for that.

    Raises:
        ConfigError: the condition cannot be parsed, has another kind of expression, or a name that is no column. The
            function raises it, too, for values that cannot be compared, such as text with a number.
    """
    try:
        value = _value(ast.parse(text.strip(), mode="eval").body, columns)
    except SyntaxError as error:
        raise ConfigError(f"the condition {text!r} cannot be parsed ({error.msg}); {EXAMPLE}") from error
    except (RecursionError, MemoryError):  # too many parentheses
        raise ConfigError(TOO_DEEP) from None
    return functools.partial(_holds, value)


def _holds(value: Value, row: Row) -> bool:
    try:
        return bool(value(row))
    except RecursionError:
        raise ConfigError(TOO_DEEP) from None


def _value(node: ast.expr, columns: Collection[str]) -> Value:
    """Return the function that computes an expression for a row."""
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None as constant):
            return lambda row: constant
        case ast.Name(id=name):
            _require_column(name, columns)
            return lambda row: row.get(name)
        case ast.List(elts=elements) | ast.Tuple(elts=elements) | ast.Set(elts=elements):
            items = [_value(element, columns) for element in elements]
            return lambda row: [item(row) for item in items]
    return _operation(node, columns)


def _operation(node: ast.expr, columns: Collection[str]) -> Value:
    match node:
        case ast.Compare(left=left, ops=operators, comparators=others):
            return _comparison([left, *others], operators, columns)
        case ast.BoolOp(op=operation, values=nodes):
            parts = [_value(part, columns) for part in nodes]
            combine = all if isinstance(operation, ast.And) else any
            return lambda row: combine(part(row) for part in parts)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            negated = _value(operand, columns)
            return lambda row: not negated(row)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _arithmetic(operator.sub, lambda row: 0, _value(operand, columns), node)
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in _ARITHMETIC:
            return _arithmetic(_ARITHMETIC[type(operation)], _value(left, columns), _value(right, columns), node)
    raise ConfigError(f"a condition cannot have {ast.unparse(node)!r}; {EXAMPLE}")


def unknown_column(name: str, columns: Collection[str]) -> str:
    """Return the message for a name that is no column."""
    return f"there is no column {name!r}: did you mean {closest(name, columns)}? The columns are {', '.join(columns)}"


def _require_column(name: str, columns: Collection[str]) -> None:
    if name not in columns:
        raise ConfigError(f"{unknown_column(name, columns)}; text needs quotation marks")


def _comparison(nodes: list[ast.expr], operators: list[ast.cmpop], columns: Collection[str]) -> Value:
    """Return the function for a comparison, which may be a chain such as `0.9 < test_accuracy < 0.95`."""
    values = [_value(node, columns) for node in nodes]
    pairs = [
        (_link(operation, nodes[index : index + 2]), values[index], values[index + 1])
        for index, operation in enumerate(operators)
    ]
    return lambda row: all(holds(left(row), right(row)) for holds, left, right in pairs)


def _link(operation: ast.cmpop, nodes: list[ast.expr]) -> Callable[[Any, Any], bool]:
    """Return the function that compares two values."""
    text = " and ".join(map(ast.unparse, nodes))
    if type(operation) not in _COMPARISONS:
        raise ConfigError(f"a condition cannot compare {text} with `is`; write == or !=")
    compare = _COMPARISONS[type(operation)]
    asks_for_none = any(isinstance(node, ast.Constant) and node.value is None for node in nodes)

    def holds(left: Any, right: Any) -> bool:
        if not asks_for_none and (left is None or right is None):
            return False
        try:
            return compare(left, right)
        except TypeError:
            raise ConfigError(f"{text} cannot be compared: they are {left!r} and {right!r}") from None

    return holds


def _arithmetic(compute: Callable[[Any, Any], Any], left: Value, right: Value, node: ast.expr) -> Value:
    def result(row: Row) -> Any:
        values = left(row), right(row)
        if None in values:
            return None
        if not all(isinstance(value, (int, float)) for value in values):
            raise ConfigError(f"{ast.unparse(node)} needs numbers; its values are {values[0]!r} and {values[1]!r}")
        try:
            return compute(*values)
        except (ZeroDivisionError, OverflowError):
            return None

    return result
