"""Prompts out, answers back: the layout we ask for and how a reply is read.

Everything here is text in, text out; nothing heavy is imported.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

SYSTEM_PROMPT = """\
Work the problem out, then answer, in exactly this layout:
<reasoning>
your steps
</reasoning>
<answer>
the number only
</answer>"""

XML_COT_FORMAT = """\
<reasoning>
{reasoning}
</reasoning>
<answer>
{answer}
</answer>"""

Message = dict[str, str]

# ASCII digits only: str.isdigit also accepts "²" and "٣", and \d the latter.
# A comma must stand before groups of three digits, as in 1,234,567.
_UNSIGNED = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|(?<!\.)\.[0-9]+"
_WHOLE_NUMBER = re.compile(rf"([-+\u2212]?)\s?([$€£]?)([-+\u2212]?)\s?({_UNSIGNED})\s?%?\.?")
_NUMBER_IN_TEXT = re.compile(rf"(?<![0-9A-Za-z])(?<![0-9]\.)(?:[-\u2212](?=[$€£]?[0-9.]))?[$€£]?(?:{_UNSIGNED})")


def build_messages(
    question: str,
    system_prompt: str | None = SYSTEM_PROMPT,
    shots: Sequence[tuple[str, str]] = (),
) -> list[Message]:
    """The chat that asks `question`: system message, worked examples, question.

    `shots` are (question, reply) pairs shown as earlier turns of the chat.
    With `system_prompt=None` no system message is written; note that some chat
    templates (Qwen2.5, SmolLM2) then add one of their own.
    """
    messages = [{"role": "system", "content": system_prompt}] if system_prompt is not None else []
    for shot_question, shot_reply in shots:
        messages.append({"role": "user", "content": shot_question})
        messages.append({"role": "assistant", "content": shot_reply})
    return [*messages, {"role": "user", "content": question}]


def extract_xml_answer(text: str) -> str:
    """The text inside the last closed answer block, stripped; "" when there is none.

    >>> extract_xml_answer("<reasoning>6 * 12</reasoning><answer> 72 </answer>")
    '72'
    >>> extract_xml_answer("the answer is 72")
    ''
    """
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, end) if end >= 0 else -1
    return text[start + len("<answer>") : end].strip() if start >= 0 else ""


def extract_hash_answer(text: str) -> str:
    """GSM8K's gold answer: what follows the last `####`, without `$`; "" when there is none.

    Commas and the decimal point stay: reading the number is `parse_number`'s job.

    >>> extract_hash_answer("4 + 4 = <<4+4=8>>8 boxes\\n#### $1,008.50")
    '1,008.50'
    """
    before, mark, after = text.rpartition("####")
    return after.strip().replace("$", "").strip() if mark else ""


def parse_number(text: str) -> Decimal | None:
    """The number that `text` is, or None when it is anything else.

    Read as numbers: 72, -5, +5, 3.50, .5, 1,000, $1,000, -$20, $-20, 42., 20 %.
    Not read: words, two numbers, 1,00, 1e3, 1/2, "²", "٣", an empty text.

    >>> parse_number(" $1,000.00 ") == 1000
    True
    """
    match = _WHOLE_NUMBER.fullmatch(text.strip())
    if match is None or (match[1] and match[3]):
        return None
    value = Decimal(match[4].replace(",", ""))
    return value.copy_negate() if (match[1] or match[3]) in ("-", "\u2212") else value


def last_number(text: str) -> Decimal | None:
    """The last number anywhere in `text` (the *flexible* reading), or None.

    >>> last_number("That makes 3 + 4 = 7 apples.")
    Decimal('7')
    """
    found = _NUMBER_IN_TEXT.findall(text)
    return parse_number(found[-1]) if found else None


def same_number(a: str | Decimal | None, b: str | Decimal | None) -> bool:
    """Whether two texts or values are the same number: "1,000" and "$1000.0" are."""
    left, right = (parse_number(x) if isinstance(x, str) else x for x in (a, b))
    return left is not None and left == right
