"""Cells of the rule tables: products of powers of symbols, such as `m_out/m_in` or `m_in^-1/2`."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

SYMBOLS = {
    "m_in": "fan_in over fan_in at the base width",
    "m_out": "fan_out over fan_out at the base width",
    "m_copies": "number of matrices in a tensor, such as experts, over the one at the base width",
    "m_L": "depth over base depth for a tensor in a block, else 1",
    "fan_in": "number of terms that are summed for one output; 1 for a bias or a gain",
    "fan_out": "number of outputs; the length of a bias, a gain or an embedding's vectors",
    "sigma": "initial std at the base width; 1 for a tensor that starts constant",
    "alpha": "the layer's own learning-rate factor, `lr_scale`",
    "shape_factor": "what the optimizer multiplies an update of this shape by, over that at the "
    "base width",
}
_FACTOR = re.compile(r"([*/])\s*([a-zA-Z_]+|[0-9.]+(?:e-?[0-9]+)?)(?:\^(-?[0-9]+(?:/[0-9]+)?))?\s*")
_ZERO = Fraction(0)


@dataclass(frozen=True)
class Monomial:
    """`coefficient * prod(symbol ** exponent)`, exact in its exponents.

    Monomials are closed under `*`, `/` and `**`. So the abc-symmetry can move whole tables, and
    the slope of a cell in log(width) can be read off instead of being written down again.

    Example:
        >>> cell = Monomial.parse("m_out/m_in") * Monomial.parse("m_in^1/2")
        >>> print(cell)
        m_in^-1/2*m_out
        >>> cell(m_in=4, m_out=3)
        1.5
    """

    coefficient: float = 1.0
    exponents: Mapping[str, Fraction] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: "str | float | Monomial") -> "Monomial":
        """Read a cell: `parse("m_out/m_in")`, `parse("m_in^-1/2")`, `parse("1")`, `parse(0.25)`.

        A fraction after `^` binds to the exponent: `m_in^-1/2` is `m_in ** (-1/2)`.

        Raises:
            ValueError: if the text is no such product or names an unknown symbol.
        """
        if isinstance(text, Monomial):
            return text
        source = str(text).strip()
        try:
            return cls._product(f"*{source}")
        except (ValueError, ArithmeticError) as error:  # such as 1..2, 1/0 or 10^1000
            known = ", ".join(SYMBOLS)
            message = f"{source!r} is no product of powers of {known} and numbers"
            raise ValueError(message) from error

    @classmethod
    def _product(cls, source: str) -> "Monomial":
        """Return the product of factors, each with a `*` or `/` before it."""
        result = cls()
        position = 0
        while position < len(source):
            match = _FACTOR.match(source, position)
            if not match:
                raise ValueError(f"no factor at {source[position:]!r}")
            sign, base, exponent = match.groups()
            power = Fraction(exponent or 1)
            if sign == "/":
                power = -power
            if base in SYMBOLS:
                result *= cls(1.0, {base: power})
            else:
                result *= cls(float(base) ** float(power))
            position = match.end()
        if not math.isfinite(result.coefficient):
            raise ValueError("too large")
        return result

    def __mul__(self, other: "Monomial") -> "Monomial":
        exponents = {}
        for symbol in SYMBOLS:
            power = self.exponents.get(symbol, _ZERO) + other.exponents.get(symbol, _ZERO)
            if power:
                exponents[symbol] = power
        return Monomial(self.coefficient * other.coefficient, exponents)

    def __pow__(self, power: int | Fraction) -> "Monomial":
        if power == 0:
            return Monomial()
        exponents = {symbol: own * power for symbol, own in self.exponents.items()}
        return Monomial(self.coefficient ** float(power), exponents)

    def __truediv__(self, other: "Monomial") -> "Monomial":
        return self * other**-1

    def without(self, symbol: str) -> "Monomial":
        """Return the cell with one symbol set to 1."""
        others = {name: power for name, power in self.exponents.items() if name != symbol}
        return Monomial(self.coefficient, others)

    def replace(self, old: str, new: str) -> "Monomial":
        """Return the cell with one symbol put for another."""
        moved = Monomial(1.0, {new: self.exponents.get(old, _ZERO)})
        return self.without(old) * moved

    def __call__(self, **symbols: float) -> float:
        """Return the number that the cell stands for, given the values of its symbols."""
        result = self.coefficient
        for symbol, power in self.exponents.items():
            result *= symbols[symbol] ** float(power)
        return result

    def __str__(self) -> str:
        above = []
        below = []
        for symbol, power in self.exponents.items():
            if power < 0 and power.denominator == 1:
                below.append(_power(symbol, -power))
            else:
                above.append(_power(symbol, power))
        if self.coefficient != 1 or not above:
            above.insert(0, f"{self.coefficient:g}")
        return "/".join(["*".join(above), *below])


def _power(symbol: str, power: Fraction) -> str:
    return symbol if power == 1 else f"{symbol}^{power}"
