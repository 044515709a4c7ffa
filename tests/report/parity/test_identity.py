"""The measured part of docs/identity.md, from verdicts made by hand."""

import matplotlib.image
import pytest

from launch.identity import read_matrix
from recipe.errors import RecordError
from report.parity.bounds import ALIKE
from report.parity.identity import (
    BEGIN,
    END,
    Cell,
    curves_figure,
    measured,
    with_measured,
)
from tests.conftest import ROOT

ENVIRONMENT = {
    "git_commit": "c0ffee" * 6,
    "git_dirty": False,
    "processor": "a processor",
    "cpu_count": 2,
    "packages": {"torch": "2", "jax": "0", "flax": "1"},
}


BY_SCORE = (
    "10 x the envelope of the controls; from step 7 on, where they have lost the "
    "trajectory, by the test scores lying in the 99% interval of the other's controls, "
    "0.9000 to 0.9400 of torch, 0.9100 to 0.9300 of jax"
)


def cell(name="mlp", verdict="identical", control=None):
    def comparison(kind, worst):
        return {
            "kind": kind,
            "differences": [1e-16, worst],
            "allowed": [1e-12, "Infinity"],
            "leaves": {"w": 2e-15, "b": "Infinity" if worst > 1 else 0.0},
        }

    return Cell(
        name,
        [],
        {
            "verdict": verdict,
            "precision": "fp64",
            "decided_by": BY_SCORE if control else "",
            "control_losses": control,
            "comparisons": [comparison("frameworks", 3e-14)],
        },
        ENVIRONMENT,
    )


def test_a_row_tells_the_largest_of_each_kind():
    text = measured([cell()], "")
    row = "| `mlp` | fp64 | 2 | 1 | 1.0e-16 | 3.0e-14 | 2.0e-15 | – | – | identical |"
    assert row in text
    assert "commit c0ffeec0ffee." in text and "torch 2, jax 0, flax 1" in text


def test_a_cell_without_a_verdict_is_named_and_not_identical():
    failed = Cell("vit", [], error="error: no memory")
    text = measured([cell(), failed], "images/identity.png")
    assert "**`vit` came to no verdict**: error: no memory" in text
    assert "(images/identity.png)" in text
    assert cell().passes and not failed.passes
    assert not cell(verdict="different").passes


def test_curves_are_drawn_of_what_controls_judged(tmp_path):
    assert not curves_figure(tmp_path / "a.png", [cell()])
    assert curves_figure(tmp_path / "b.png", [cell(), cell("cnn", control=[0.0, 1e-7])])
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    pixels = matplotlib.image.imread(tmp_path / "b.png")[..., :3]
    assert (pixels < 0.9).mean() > 0.02  # labels alone are a hundredth


def test_where_test_scores_decided_the_row_says_from_where_and_by_which_intervals():
    found = cell("cnn", ALIKE, control=[0.0, 1e-7])
    assert found.passes
    assert (
        "| not told apart by test score from step 7 on (99% interval 0.9000 to 0.9400 "
        "of torch, 0.9100 to 0.9300 of jax) |"
    ) in measured([found], "")
    # Runs that keep to the fixed bound to the end are identical, whatever controls do.
    assert "| identical |" in measured([cell("cnn", control=[0.0, 1e-7])], "")


def test_what_is_between_the_marks_is_replaced_and_nothing_else():
    page = f"before\n{BEGIN}\n\nold\n\n{END}\nafter\n"
    new = with_measured(page, "new")
    assert new == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    assert with_measured(new, "new") == new
    for broken in ("no marks", f"{END}{BEGIN}", page + page):
        with pytest.raises(RecordError, match="measured"):
            with_measured(broken, "new")


def test_the_page_has_its_marks(root):
    with_measured((root / "docs" / "identity.md").read_text(), "")


CELLS = read_matrix(ROOT / "conf" / "identity.yaml")


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_of_the_matrix_is_a_check_that_can_run(make_config, name):
    own = ("world_sizes", "jax_layouts", "controls")
    make_config(*(typed for typed in CELLS[name] if not typed.startswith(own)))
