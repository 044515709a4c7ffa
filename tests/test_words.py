"""Product text uses the terms of the field; CONTRIBUTING.md has the glossary."""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

# What may not be written -> what to write.
BANNED = {
    r"(go|goes|going|gone|went) on (with|from|after)": "resume, continue",
    r"(beg[iau]ns?|start(s|ed)?|written|compiled|rounded|built) anew": "again, restart",
    r"cut short": "interrupted",
    r"taken? apart|takes? (it|one|a \w+|that \w+) apart": "layer by layer, trace",
    r"parted|they part|losses part|weights part|loss parts|nothing parts": "differ",
    r"of which any": "a clause with its own subject",
    r"nor anything": "or other",
    r"what (it|they|a step|a run|the run|each step) c[ao]mes? to": "the result",
    r"(?<!there.)is no (?!longer|more)[a-z]+": "is not a",
    r"too(?=[.;,:)])": "also, before the verb",
    r"mend(s|ed|ing)?": "fix, what to do",
    r"slots?": "optimizer state",
    r"(an|the|such|no|each|every) arms?": "ablation",
    r"(was|were|is|are|be) left out": "skipped, omitted, excluded",
    r"told(?! apart)": "asked, given, printed",
    r"a (share|shares) of": "a fraction of, a part of",
    r"(a|the) user's own": "custom",
    r"(models?|images|layers) of (yours|your own)": "custom",
    r"(held|holds?|holding) (\w+ ){0,3}(against|together)": "compare",
    r"signs? of life": "heartbeat",
    r"in good order": "cleanly, gracefully",
    r"none other": "no other",
}
GAP = r"[\s#]+"  # a phrase may span lines, of comments as well
PATTERNS = {
    re.compile(rf"\b({bad.replace(' ', GAP)})\b", re.IGNORECASE): good
    for bad, good in BANNED.items()
}
FOLDERS = (
    *("recipe", "runtime", "data", "torch_impl", "jax_impl", "record", "launch"),
    *("benchmarks", "conf", "docs", "report"),
)
# Written by `make identity`, from sentences of report/.
MEASURED = re.compile(r"<!-- measured.*?<!-- measured: end -->", re.DOTALL)
# Of both twins, whose strings and comments are read where they are.
CODE = re.compile(r"^```python\n.*?^```", re.DOTALL | re.MULTILINE)


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Strings, comments and docstrings of a module, or a page, with their lines."""
    text = path.read_text()
    if path.suffix != ".py":
        for generated in (MEASURED, *[CODE] * (path.name == "twins.md")):
            text = generated.sub(lambda found: "\n" * found[0].count("\n"), text)
        yield 1, text
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            yield token.start[0], token.string


def words(path: Path) -> list[str]:
    """Every banned word in a file: where, what, and what to write."""
    found = []
    for line, text in prose(path):
        for pattern, good in PATTERNS.items():
            for match in pattern.finditer(text):
                number = line + text.count("\n", 0, match.start())
                found.append(f"{path}:{number}: {match[0]!r}: write {good}")
    return found


def pages() -> Iterator[Path]:
    yield ROOT / "README.md"
    for folder in FOLDERS:
        for suffix in ("py", "md", "yaml"):
            yield from sorted((ROOT / folder).rglob(f"*.{suffix}"))


def test_no_product_text_has_a_banned_word():
    assert [line for path in pages() for line in words(path)] == []


def test_contributing_has_them_in_the_glossary_alone(tmp_path):
    text = (ROOT / "CONTRIBUTING.md").read_text()
    before, mark, rest = text.partition("| we say | it means | not |\n")
    table, _, after = rest.partition("\n\n")
    rows = [line.rpartition("|")[0].rpartition("|")[0] for line in table.splitlines()]
    page = tmp_path / "CONTRIBUTING.md"
    page.write_text("\n".join([before, *rows, after]))
    assert mark and words(page) == []


@pytest.mark.parametrize(
    "text, good",
    {
        "# the run is gone on with": "resume",
        '"""A run\nthat is\n\ncut\nshort."""': "interrupted",
        'f"{name} is no key"': "is not a",
    }.items(),
)
def test_a_banned_word_is_named_with_its_line_and_the_right_one(text, good, tmp_path):
    (tmp_path / "a.py").write_text(f"x = 1\n{text}\n")
    first, *_ = words(tmp_path / "a.py")
    assert f"a.py:{5 if 'cut' in text else 2}: " in first and good in first
