"""The calculations that a reply states, and those of them that are false."""

import re
from decimal import Decimal

from .prompts import parse_number

_NUMBER = r"[$€£]?(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?"  # all that `parse_number` reads
_GAP = r"[^\S\n]*"
# And the letter, as in "3 x 12" and "3 x -4", but not in "3x - 4".
_SIGN = rf"(?:[-+*/×÷]|(?<![a-z])x(?={_GAP}[$€£]?[0-9])|(?<=[^\S\n])x(?=[^\S\n]-[$€£]?[0-9]))"
_TERM = rf"-?{_NUMBER}(?:[^\S\n][a-z]+){{0,3}}"  # with its unit, as in "90 km per hour"
# From the first term to the number after "=": no start or end in the middle of a longer calculation.
_SUM = re.compile(
    rf"(?<![\w.,*/+×÷-])(?<![-+*/×÷] )(?<!\bx )({_TERM}(?:{_GAP}{_SIGN}{_GAP}{_TERM})+){_GAP}={_GAP}(-?{_NUMBER})"
    rf"(?!,?[0-9])(?![0-9.,]*{_GAP}{_SIGN}{_GAP}[$€£]?[0-9])",
    re.IGNORECASE,
)
_STEP = re.compile(rf"({_SIGN}?){_GAP}(-?{_NUMBER})", re.IGNORECASE)


def _value(expression: str) -> Decimal:
    """`2 + 3 apples * $4` → 14: products and quotients before sums."""
    terms = [Decimal(0)]
    for operator, text in _STEP.findall(expression):
        number = parse_number(text)
        if operator in ("*", "×", "x", "X"):
            terms[-1] *= number
        elif operator in ("/", "÷"):
            terms[-1] /= number
        else:
            terms.append(-number if operator == "-" else number)
    return sum(terms)


def has_calculation(text: str) -> bool:
    """Whether `text` states a calculation, true or false: the sign that a reply was worked out and not guessed.

    >>> [has_calculation(text) for text in ("6 * 12 = 72", "Easy. 72", "6 * 12")]
    [True, False, False]
    """
    return _SUM.search(text.replace("\u2212", "-")) is not None


def false_sums(text: str) -> list[str]:
    """The calculations stated in `text` that are false; a quotient may be rounded to the digits shown.

    >>> false_sums("90 km * 7 hours = 600 km, and 3 * 12 = 36")
    ['90 km * 7 hours = 600']
    """
    found = []
    for match in _SUM.finditer(text.replace("\u2212", "-")):  # as long, and the minus of `parse_number`
        stated = parse_number(match[2])
        try:
            off = abs(_value(match[1]) - stated)
        except ArithmeticError:  # a division by zero
            off = Decimal("Infinity")
        shown = Decimal(1).scaleb(stated.as_tuple().exponent)
        if off > (shown / 2 if {"/", "÷"} & set(match[1]) else 0):
            found.append(text[match.start() : match.end()].strip())
    return found
