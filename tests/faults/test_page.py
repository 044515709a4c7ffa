"""The page of faults is a short table, and its details lie beside it."""

import json

import pytest

from tests.faults.page import BEGIN, END, table, with_table, write_page

KEPT = {
    "commit": "abc",
    "kept": True,
    "seconds": 2.3,
    "exits": ["1", "SIGKILL"],
    "message": "error: rank 1 has ended",
    "resumed": "after step 15",
    "result": "as uninterrupted",
}


def report(**seen):
    fault = {"fault": "SIGKILL | rank 1", "promised": "the other exits", "jax": KEPT}
    return {
        "processor": "A CPU",
        "cores": 2,
        "packages": {"torch": "2", "jax": "3"},
        "faults": [fault | {"torch": seen}],
    }


@pytest.mark.parametrize(
    "seen, cell",
    [
        (KEPT, "✓ 2.3 s"),
        (KEPT | {"seconds": None}, "✓"),
        (KEPT | {"kept": False, "seconds": None, "result": "left\nwith"}, "✗"),
        ({}, "not run"),
    ],
)
def test_a_row_is_the_fault_its_promise_and_a_mark_for_each_framework(seen, cell):
    row = table(report(**seen)).splitlines()[-1]
    assert row == f"| SIGKILL / rank 1 | the other exits | {cell} | ✓ 2.3 s |"


def test_the_page_keeps_its_prose_and_the_details_are_read_back(tmp_path):
    page = tmp_path / "reliability.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_page(tmp_path, report(**KEPT))
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n\nA CPU, 2 cores, torch 2, jax 3; commit")
    assert text.endswith(f"\n\n{END}\nafter\n") and "old" not in text
    details = json.loads((tmp_path / "reliability.json").read_text())
    assert details == report(**KEPT)


@pytest.mark.parametrize("page", ["", f"{END}{BEGIN}", f"{BEGIN}{END}" * 2])
def test_a_page_without_its_marks_is_refused(page):
    with pytest.raises(ValueError, match="once each"):
        with_table(page, "new")


def test_the_page_in_docs_is_that_of_the_details_beside_it(root):
    page = (root / "docs" / "reliability.md").read_text()
    details = json.loads((root / "docs" / "reliability.json").read_text())
    assert with_table(page, table(details)) == page


def test_the_page_would_be_seen_to_be_older_than_its_details(root):
    page = (root / "docs" / "reliability.md").read_text()
    details = json.loads((root / "docs" / "reliability.json").read_text())
    details["faults"][0]["jax"]["kept"] = False
    assert with_table(page, table(details)) != page
