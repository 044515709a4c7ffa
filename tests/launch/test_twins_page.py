"""docs/twins.md shows the twins as they are, and says of each pair what differs."""

import pytest

from launch.twins import (
    PAGE,
    Code,
    page,
    problems,
    read_notes,
    read_twins,
    same,
    short,
    shown,
)


@pytest.fixture
def notes():
    differs = {"differs": {"step": "The call."}, "alone": {"State": "It is pure."}}
    return {
        "topics": [{"title": "Calls", "text": "They differ.", "read": ["a.py step"]}],
        "files": {"a.py": {"about": "A step."} | differs},
    }


@pytest.fixture
def twins():
    torch, jax = (
        "def step(x): return x()\n",
        "def step(x): return x\nclass State: ...\n",
    )
    return {"a.py": (Code.of(torch), Code.of(jax))}


def test_the_page_is_what_the_code_and_the_notes_give(root):
    assert PAGE.read_text() == page(read_notes(), read_twins(root))


def test_a_pair_stands_side_by_side_under_a_link_to_both_files(notes, twins):
    text = page(notes, twins)
    assert "[`step`](#apy-step)" in text and "### a.py: step" in text
    assert "[torch_impl/a.py](../torch_impl/a.py)" in text
    assert text.index("return x()") < text.index("</td>") < text.index("return x\n")
    assert "In JAX alone: It is pure." in text


@pytest.mark.parametrize(
    ("torch", "jax", "said"),
    [
        ("def new(): ...", "", "a.py new: has no counterpart, and no reason for it"),
        ("", "def new(): ...", "a.py new: has no counterpart, and no reason for it"),
        ("def new(): a()", "def new(): b()", "a.py new: does not say what differs"),
        ("class State: ...", "", "a.py State: is not alone, or is gone"),
        ("def step(x): return x", "", "a.py step: says what differs, and nothing does"),
    ],
)
def test_a_change_of_one_twin_alone_is_named(notes, twins, torch, jax, said):
    both = zip(twins["a.py"], (torch, jax), strict=True)
    changed = [Code.of(code.source + new) for code, new in both]
    assert problems(notes, twins) == []
    assert problems(notes, {"a.py": tuple(changed)}) == [said]
    with pytest.raises(ValueError, match=said):
        page(notes, {"a.py": tuple(changed)})


def test_entries_of_what_is_gone_are_named(notes, twins):
    none = Code.of(""), Code.of("")
    found = problems(notes, {"a.py": none, "b.py": twins["a.py"]})
    assert found == [
        "b.py: has no entry",
        "a.py State: is not alone, or is gone",
        "a.py step: is not a pair, or is gone",
        "topic 'Calls': a.py step is gone",
    ]


def test_annotations_and_docstrings_are_no_difference():
    torch = Code.of('def f(x: Tensor) -> Tensor:\n    """In torch."""\n    return x')
    jax = Code.of("def f(x: Array) -> Array:\n    return x")
    other = Code.of("def f(x: Array) -> Array:\n    return -x")
    assert same(torch.definitions["f"], jax.definitions["f"])
    assert not same(torch.definitions["f"], other.definitions["f"])


def test_of_long_code_the_signature_and_what_it_is_for_are_shown():
    lines = "\n".join(f"    x = {n}" for n in range(40))
    head = '@jit\ndef f(\n    x,\n) -> int:\n    """What.\n\n    More.\n    """\n'
    code = Code.of(head + lines)
    assert not short(code.definitions["f"])
    shows = shown(code.source, code.definitions["f"], whole=False)
    assert shows == '@jit\ndef f(\n    x,\n) -> int:\n    """What."""\n    ...'
