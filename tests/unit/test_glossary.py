"""The glossary is sorted, has one line and one sentence for each term, and is linked from the README."""

from __future__ import annotations

import pytest

from tests.support import REPOSITORY

GLOSSARY = (REPOSITORY / "docs" / "glossary.md").read_text("utf-8")


def rows(heading: str) -> list[tuple[str, str]]:
    """Returns the rows of the table below the header row ``heading``, up to the next empty line."""
    table = GLOSSARY.split(f"{heading}\n|---|---|\n", 1)[1].split("\n\n", 1)[0].splitlines()
    cells = [line.strip("|").split(" | ") for line in table]
    assert all(len(each) == 2 for each in cells), "a row has two cells"
    return [(word.strip(), meaning.strip()) for word, meaning in cells]


@pytest.mark.parametrize("heading", ["| term | meaning |", "| not | but |"])
def test_the_words_are_sorted_and_appear_once(heading: str) -> None:
    words = [word.casefold() for word, _ in rows(heading)]
    assert words == sorted(set(words))


def test_each_term_has_one_sentence() -> None:
    wrong = [
        word
        for word, meaning in rows("| term | meaning |")
        if not meaning.endswith(".") or ". " in meaning or not (meaning[0].isupper() or meaning[0].isdigit())
    ]
    assert wrong == []


def test_no_term_is_among_the_words_that_are_not_used() -> None:
    terms = {word.casefold() for word, _ in rows("| term | meaning |")}
    whole = [word for word, _ in rows("| not | but |") if "(" not in word]
    unused = {each.strip() for word in whole for each in word.split(",")}
    assert terms & unused == set()


def test_the_readme_links_the_glossary() -> None:
    assert "(docs/glossary.md)" in (REPOSITORY / "README.md").read_text("utf-8")
