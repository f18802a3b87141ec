"""Cells of the rule tables: products of powers of a few symbols, such as `m_out/m_in` or `m_in^-1/2`."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

SYMBOLS = {
    "m_in": "fan_in / base fan_in",
    "m_out": "fan_out / base fan_out",
    "m_L": "depth / base depth, of what is in the blocks (else 1)",
    "terms": "what is summed for one output: fan_in, but 1 of an embedding or a vector",
    "d_embedding": "length of an embedding's vectors (1 of any other tensor)",
    "length": "length of a vector, say a bias (1 of a matrix)",
    "sigma": "init std at the base width (1 for a tensor that starts constant)",
    "alpha": "lr_scale of the layer",
    "shape_factor": "factor that the optimizer itself puts on an update of this shape, over that at the base width",
}
_FACTOR = re.compile(
    r"([*/]?)\s*([a-zA-Z_]+|[0-9.]+(?:e-?[0-9]+)?)(?:\^(-?[0-9]+(?:/[0-9]+)?))?\s*"
)


@dataclass(frozen=True)
class Monomial:
    """`coefficient * prod(symbol ** exponent)`, exact in its exponents.

    Closed under `*`, `/` and `**`, so that tables can be moved by the abc-symmetry, and the slope of a cell in
    log(width) can be read off instead of being written a second time.
    """

    coefficient: float = 1.0
    exponents: Mapping[str, Fraction] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: "str | float | Monomial") -> "Monomial":
        """`parse("m_out/m_in")`, `parse("m_in^-1/2")`, `parse("1")`, `parse(0.25)`.

        A fraction after `^` binds to the exponent: `m_in^-1/2` is `m_in ** (-1/2)`.

        Raises:
            ValueError: if the text is no such product or names an unknown symbol.
        """
        if isinstance(text, Monomial):
            return text
        result, position, source = cls(), 0, str(text).strip()
        while position < len(source) or not source:
            match = _FACTOR.match(source, position)
            if not match or (match[2][0].isalpha() and match[2] not in SYMBOLS):
                raise ValueError(
                    f"{source!r} is no product of powers of {', '.join(SYMBOLS)} and numbers"
                )
            power = Fraction(match[3] or 1) * (-1 if match[1] == "/" else 1)
            result *= (
                cls(1.0, {match[2]: power})
                if match[2] in SYMBOLS
                else cls(float(match[2]) ** float(power))
            )
            position = match.end()
        return result

    def __mul__(self, other: "Monomial") -> "Monomial":
        powers = {
            s: self.exponents.get(s, Fraction(0)) + other.exponents.get(s, Fraction(0))
            for s in SYMBOLS
        }
        return Monomial(
            self.coefficient * other.coefficient, {s: p for s, p in powers.items() if p}
        )

    def __pow__(self, power: int | Fraction) -> "Monomial":
        return Monomial(
            self.coefficient ** float(power),
            {s: p * power for s, p in self.exponents.items() if power},
        )

    def __truediv__(self, other: "Monomial") -> "Monomial":
        return self * other**-1

    def replace(self, old: str, new: str) -> "Monomial":
        """The cell with one symbol put for another."""
        moved = {symbol: power for symbol, power in self.exponents.items() if symbol != old}
        return Monomial(self.coefficient, moved) * Monomial(
            1.0, {new: self.exponents.get(old, Fraction(0))}
        )

    def __call__(self, **symbols: float) -> float:
        """The number that the cell stands for, e.g. `Monomial.parse("1/m_in")(m_in=4) == 0.25`."""
        return math.prod(
            (symbols[s] ** float(p) for s, p in self.exponents.items()), start=self.coefficient
        )

    def __str__(self) -> str:
        above = [
            s if p == 1 else f"{s}^{p}"
            for s, p in self.exponents.items()
            if p > 0 or p.denominator > 1
        ]
        below = [
            s if p == -1 else f"{s}^{-p}"
            for s, p in self.exponents.items()
            if p < 0 and p.denominator == 1
        ]
        if self.coefficient != 1 or not above:
            above.insert(0, f"{self.coefficient:g}")
        return "/".join(["*".join(above), *below])
