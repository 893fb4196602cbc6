"""The glossary: each term once, in both languages, explained, and in the lesson that it names."""

import re
from pathlib import Path

from dsv3.lessons.lesson import LESSONS

ROOT = Path(__file__).parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "GLOSSARY.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| term")
]


def test_each_term_stands_once_in_order():
    terms = [row[0].lower() for row in ROWS]
    assert terms == sorted(set(terms))


def test_each_term_is_explained_in_both_languages():
    for term, chinese, meaning, lesson in ROWS:
        same_in_both = re.fullmatch(r"[A-Za-z0-9]+", chinese) and chinese == term
        assert re.search(r"[\u4e00-\u9fff]", chinese) or same_in_both, term
        assert len(meaning) > 15, term
        assert lesson in LESSONS, term
