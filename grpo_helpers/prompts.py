"""Prompts out, answers back: the layout we ask for and how a reply is read. Nothing heavy is imported."""

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

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
# A comma must stand before groups of three digits, as in 1,234,567; and 0,125 is no group.
_UNSIGNED = r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|(?<!\.)\.[0-9]+"
_WHOLE_NUMBER = re.compile(rf"([-+\u2212]?)\s?([$€£¥₹]?)([-+\u2212]?)\s?({_UNSIGNED})\s?([$€£¥₹%]?)\.?")
# In a text a number is all that hangs together, 1 000.50 as well as 2,74, 12:30 or 1e3, whether it can be read or not.
_SPACE, _MARK = " \u00a0\u2009\u202f", ".,'’_^:"
_NUMBER_IN_TEXT = re.compile(
    rf"(?<![0-9A-Za-z])(?<![0-9][{_MARK}])([-\u2212](?=[$€£¥₹]?[0-9.]))?[$€£¥₹]?"
    rf"([0-9]+(?:[{_MARK}][0-9]+|[{_SPACE}][0-9]{{3}}(?![0-9]))*(?:[eE][-+]?[0-9]+)?|(?<!\.)\.[0-9]+)"
)
# Read are groups of three (1,000 1 000 1'000 1_000), India's (1,23,456), and plain digits.
_READABLE = re.compile(
    rf"(?:[1-9][0-9]{{0,2}}([,'’_{_SPACE}])[0-9]{{3}}(?:\1[0-9]{{3}})*|[1-9][0-9]?(?:,[0-9]{{2}})+,[0-9]{{3}}|[0-9]+)"
    r"(?:\.[0-9]+)?|\.[0-9]+"
)


def build_messages(
    question: str, system_prompt: str | None = SYSTEM_PROMPT, shots: Sequence[tuple[str, str]] = ()
) -> list[Message]:
    """The chat that asks `question`: system message, worked examples, question.

    `shots` are (question, reply) pairs shown as earlier turns of the chat. With `system_prompt=None` no system message
    is written; note that some chat templates (Qwen2.5, SmolLM2) then add one of their own.
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

    Read as numbers: 72, -5, +5, 3.50, .5, 1,000, $1,000, -$20, $-20, 20 €, 42., 20 %.
    Not read: words, two numbers, 1,00, 1e3, 1/2, "²", "٣", an empty text.
    """
    match = _WHOLE_NUMBER.fullmatch(text.strip())
    if match is None or (match[1] and match[3]) or (match[2] and match[5] not in ("", "%")):
        return None
    value = Decimal(match[4].replace(",", ""))
    return value.copy_negate() if (match[1] or match[3]) in ("-", "\u2212") else value


def last_number(text: str) -> Decimal | None:
    """The last number anywhere in `text` (the *flexible* reading); None without one, or when it can be read two ways.

    >>> last_number("That makes 3 + 4 = 7 apples."), last_number("1 000 €"), last_number("2,74")
    (Decimal('7'), Decimal('1000'), None)
    """
    sign, digits = (_NUMBER_IN_TEXT.findall(text) or [("", "")])[-1]
    if not _READABLE.fullmatch(digits):
        return None
    value = Decimal(re.sub("[^0-9.]", "", digits))
    return value.copy_negate() if sign else value


def written_out(value: Any) -> str:
    """A text as it is, a number of any library as text, without an exponent: 0.1 → "0.1"."""
    value = value.item() if hasattr(value, "numel") and value.numel() == 1 else value  # str: "tensor(72)"
    try:
        return value if isinstance(value, str) else f"{Decimal(str(value)):f}"
    except InvalidOperation:  # no number
        return str(value)


def gold_text(answer: Any) -> str:
    """A gold answer as text, whatever the column holds; what is no number, and can never be earned, is a ValueError."""
    text = written_out(answer)
    if parse_number(text) is None:
        remedy = "give the bare number in the column 'answer' (extract_hash_answer reads it from GSM8K's text)"
        raise ValueError(f"the gold answer {answer!r} is not a number, so no completion can ever match it; {remedy}")
    return text


def same_number(a: Any, b: Any) -> bool:
    """Whether two texts or values are the same number: "1,000", "$1000.0" and 1000 are."""
    left, right = (x if x is None or isinstance(x, Decimal) else parse_number(written_out(x)) for x in (a, b))
    return left is not None and left == right


def prompt_ids(tokenizer: Any, prompts: Sequence[str | Sequence[Message]]) -> list[list[int]]:
    """The tokens of each prompt as the policy reads it; a plain string, as in TRL's training, gets no template."""
    if prompts and isinstance(prompts[0], str):
        return tokenizer(list(prompts))["input_ids"]
    texts = [tokenizer.apply_chat_template(list(p), tokenize=False, add_generation_prompt=True) for p in prompts]
    return tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
