"""The errors that docs/faq.md explains are those that are printed."""

import ast
import re
from functools import cache
from importlib.util import find_spec
from mmap import ACCESS_READ, mmap
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.faults.table import ENDED

ROOMS = ("recipe", "runtime", "data", "record", "report", "launch")
TWINS = ("torch_impl", "jax_impl")
# Of other packages: what is in the heading as it is in this file of theirs.
FOREIGN = {
    "Setting OMP_NUM_THREADS environment variable for each process to be": (
        *("torch", "distributed/run.py"),
    ),
    "CUDA out of memory. Tried to allocate": ("torch", "lib/libc10_cuda.so"),
    "ChildFailedError": (
        *("torch", "distributed/elastic/multiprocessing/errors/__init__.py"),
    ),
    "The server socket has failed to listen on any local network address": (
        *("torch", "lib/libtorch_cpu.so"),
    ),
}
LEAST = 25  # letters that a quote and its source share; fewer could be chance
FAQ = re.findall(r"^### `(.+)`$", (ROOT / "docs" / "faq.md").read_text(), re.M)
OWN = [message for message in FAQ if not any(text in message for text in FOREIGN)]


def fits(quote: str, parts: list[str]) -> bool:
    """Whether a quote is of a message; the `…` at its end is what it omits.

    Args:
      parts: the message's letters, between what is put in as it is printed.
    """
    if not quote.endswith("…"):
        return sum(map(len, parts)) >= LEAST and is_of(quote, parts)
    begun = quote.removesuffix("…")
    return any(
        begun.endswith(part[:end])
        and sum(map(len, parts[:number])) + end >= LEAST
        and is_of(begun, [*parts[:number], part[:end]])
        for number, part in enumerate(parts)
        for end in range(1, len(part) + 1)
    )


def is_of(quote: str, parts: list[str]) -> bool:
    """Where the message was found may stand before it."""
    pattern = ".*?".join(map(re.escape, parts))
    return re.fullmatch(rf"(?:.*[:;] )?{pattern}", quote) is not None


@cache
def messages() -> list[list[str]]:
    """Every text in the rooms, as the parts between what is put into it."""
    files = [
        file
        for room in (*ROOMS, *TWINS)
        for file in sorted((ROOT / room).rglob("*.py"))
    ]
    return [parts for file in files for parts in texts(file.read_text())]


def texts(source: str) -> list[list[str]]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            parts = [
                str(part.value) if isinstance(part, ast.Constant) else "\0"
                for part in node.values
            ]
            found.append("".join(parts).split("\0"))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(re.split("%[sdg]", node.value))
    return found


def test_the_page_explains_the_errors_that_users_meet_first_each_once():
    assert len(FAQ) == len(set(FAQ)) >= 20


@pytest.mark.parametrize("message", OWN)
def test_a_message_of_the_page_is_one_that_the_source_prints(message):
    of_a_rank = re.match(
        ENDED.format(1, 1), f"error: {message}"
    )  # as test_faults reads
    assert of_a_rank or any(fits(message, parts) for parts in messages())


@pytest.mark.parametrize("text", FOREIGN)
def test_a_message_of_another_package_is_one_that_it_prints(text):
    assert any(text in message for message in FAQ)
    package, file = FOREIGN[text]
    found = find_spec(package)
    assert found is not None and found.origin is not None
    place = Path(found.origin).parent / file
    if not place.exists():
        pytest.skip(f"{package} is installed without {file}")
    with place.open("rb") as source, mmap(source.fileno(), 0, access=ACCESS_READ) as m:
        assert m.find(text.encode()) >= 0


@pytest.mark.parametrize("change", ["another word", "missing", "not shortened"])
def test_a_message_that_the_source_has_no_more_would_be_found(change):
    parts = ["run.dir=", " already holds ", "; nothing is overwritten: ", ""]
    quote = "run.dir=RUN already holds a run; nothing is overwritten: …"
    assert fits(quote, parts)
    changed = {
        "another word": quote.replace("holds", "has"),
        "missing": quote.replace("; nothing", ""),
        "not shortened": quote.replace("overwritten: …", "overwritten"),
    }
    assert not fits(changed[change], parts)
