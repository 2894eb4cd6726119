"""calculator: arithmetic on numbers, exactly: + - * / // % **, brackets, signs. Parsed, never evaluated."""

import ast
import math
import operator
from collections.abc import Callable
from fractions import Fraction

from tasks.rlhf.verification import Resources

MAX_CHARACTERS = 200
MAX_BITS = 4096  # of a numerator or denominator on the way
MAX_EXPONENT = 256
_BINARY: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: lambda a, b: Fraction(a // b),
    ast.Mod: operator.mod,
}


def use(argument: str, resources: Resources) -> str:
    """The value: an integer, or a decimal number of twelve digits; `error: ...` for what is no arithmetic."""
    try:
        if len(argument) > MAX_CHARACTERS:
            raise ValueError("too long")
        value = _value(ast.parse(argument.strip(), mode="eval").body)
        return str(value.numerator) if value.denominator == 1 else f"{float(value):.12g}"
    except ZeroDivisionError:
        return "error: division by zero"
    except (ValueError, SyntaxError, OverflowError, RecursionError, MemoryError) as error:
        return f"error: {error.args[0] if isinstance(error, ValueError) else 'no arithmetic'}"


def failed(result: str) -> bool:
    return result.startswith("error: ")


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        if isinstance(node.value, float) and not math.isfinite(node.value):
            raise ValueError("too large")
        return _bounded(Fraction(node.value if isinstance(node.value, int) else repr(node.value)))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        value = _value(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        base, exponent = _value(node.left), _value(node.right)
        if exponent.denominator != 1 or abs(exponent) > MAX_EXPONENT:
            raise ValueError("exponent must be a small whole number")
        return _bounded(Fraction(base ** int(exponent)))
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        return _bounded(_BINARY[type(node.op)](_value(node.left), _value(node.right)))
    raise ValueError("no arithmetic")


def _bounded(value: Fraction) -> Fraction:
    if max(abs(value.numerator), value.denominator).bit_length() > MAX_BITS:
        raise ValueError("too large")
    return value
