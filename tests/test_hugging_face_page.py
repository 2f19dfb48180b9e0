"""`docs/hugging_face.md` lists the families and the keys of the tables, as they are."""

import re
from pathlib import Path

import pytest

from functional_models.hugging_face.convert import FAMILIES
from functional_models.hugging_face.generation_settings import (
    NO_OPTION,
    OPTIONS,
    SAYS_NOTHING,
    USED,
)
from functional_models.hugging_face.silent import REQUIRED, SILENT

PAGE = Path(__file__).parent.parent / "docs" / "hugging_face.md"


def code(names) -> str:
    return ", ".join(f"`{name}`" for name in names)


def families() -> str:
    rows = ["| `model_type` | classes in `architectures` | must have |", "| --- | --- | --- |"]
    for family in FAMILIES:
        required = (
            f"`{key}={' or '.join(map(repr, values))}`" for key, values in family.required.items()
        )
        cells = (code(family.model_types), code(family.heads), ", ".join(required))
        rows.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return "\n".join(rows)


def silent() -> str:
    """Return the rows of the keys that say nothing about the outputs, by their reason."""
    by_reason: dict[str, set[str]] = {}
    for keys in (SILENT, *(family.silent for family in FAMILIES)):
        for key, reason in keys.items():
            by_reason.setdefault(reason, set()).add(key)
    rows = [f"| {reason} | {code(sorted(keys))} |" for reason, keys in by_reason.items()]
    return "\n".join(["| reason | keys |", "| --- | --- |", *rows])


def required() -> str:
    rows = (f"| `{key}` | {code(map(repr, values))} |" for key, values in REQUIRED.items())
    return "\n".join(["| key | allowed, besides being absent |", "| --- | --- |", *rows])


def unread() -> str:
    rows = {}
    for family in FAMILIES:
        rows |= {name.replace("\\", ""): reason for name, reason in family.unread.items()}
        rows |= {name: f"{reason} (a warning says so)" for name, reason in family.left_out.items()}
    lines = (f"| `{name.replace('|', ' or ')}` | {reason} |" for name, reason in rows.items())
    return "\n".join(["| end of the name | why it is not read |", "| --- | --- |", *lines])


def generation() -> str:
    rows = [
        ("used", code(USED)),
        ("an option here", ", ".join(f"`{key}` (`{name}`)" for key, (name, _) in OPTIONS.items())),
        ("no option here", code(NO_OPTION)),
        ("says nothing about the tokens", code(SAYS_NOTHING)),
    ]
    lines = (f"| {what} | {keys} |" for what, keys in rows)
    return "\n".join(["| | keys |", "| --- | --- |", *lines])


@pytest.mark.parametrize("part", [families, silent, required, unread, generation])
def test_the_page_lists_what_the_tables_have(part, request: pytest.FixtureRequest) -> None:
    text = PAGE.read_text("utf-8")
    name = part.__name__
    marked = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", re.S)
    expected = marked.sub(lambda found: found[1] + part() + found[2], text)
    assert marked.search(text)
    if request.config.getoption("--overwrite"):
        PAGE.write_text(expected, "utf-8")
    else:
        assert text == expected
