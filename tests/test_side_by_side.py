"""Replies beside each other: nothing lost, nothing interpreted as HTML, only the difference marked."""

import re
from html import unescape

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import grpo_helpers.plotting  # noqa: F401
from grpo_helpers.lessons.side_by_side import marked, side_by_side


@pytest.mark.parametrize(
    ("before", "after", "left", "right"),
    [
        ("a & b", "a < b", "a <del>&amp;</del> b", "a <ins>&lt;</ins> b"),
        ("", "one\ntwo", "", "<ins>one<br>two</ins>"),
        ("The answer", "<answer>", "<del>The answer</del>", "<ins>&lt;answer&gt;</ins>"),  # a tag is one word
        ("1 + 2 = 3", "1 * 2 = 2", "1 <del>+</del> 2 = <del>3</del>", "1 <ins>*</ins> 2 = <ins>2</ins>"),
    ],
)
def test_only_the_difference_is_marked(before, after, left, right):
    assert marked(before, after) == (left, right)


texts = st.text(alphabet="<>/&;\"'ab12 .\n\tés", max_size=40)


@given(texts, texts)
def test_nothing_is_lost_and_nothing_becomes_a_tag(before, after):
    for text, html, mark in zip((before, after), marked(before, after), ("del", "ins"), strict=True):
        assert unescape(re.sub(r"</?(?:del|ins)>", "", html.replace("<br>", "\n"))) == text
        assert set(re.findall(r"<[^>]*>", html)) <= {f"<{mark}>", f"</{mark}>", "<br>"}
        assert before != after or f"<{mark}>" not in html


def test_a_table_escapes_all_it_is_given():
    html = side_by_side([("1 < 2?", "<script>", "<reasoning>")], names=("a & b", "now")).data
    assert "<script>" not in html and "<reasoning>" not in html
    assert all(text in html for text in ("1 &lt; 2?", "a &amp; b", "now", "script", "reasoning"))
    assert html.count("<tr>") == 3


def test_dollars_are_money_in_every_table_of_a_notebook():
    question = "A book is $51. A bill of $21 is paid."
    for html in (side_by_side([(question, "a", "b")]).data, pd.DataFrame({"question": [question]})._repr_html_()):
        assert {"tex2jax_ignore", "mathjax_ignore"} <= set(re.search(r'<table[^>]*class="([^"]*)"', html)[1].split())
