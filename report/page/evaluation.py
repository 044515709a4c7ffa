"""The page of an evaluation."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from report.analysis.evaluation import BINS, Evaluation
from report.analysis.groups import FRAMEWORKS
from report.analysis.intervals import format_count, fraction_estimate
from report.page import html
from report.page.blocks import (
    Block,
    Commands,
    Entry,
    Figures,
    Images,
    Section,
    Text,
    entry,
    items,
    table,
)
from report.page.chart import Chart, Row, row_of
from report.page.escape import to_html
from report.page.figures import draw
from report.page.thumbnails import png

MOST_CLASSES = 20  # of a matrix that is shown whole
MOST_PAIRS = 10
NAMES = {n: n for n in ("loss", "accuracy", "precision", "recall")} | {"f1": "F1"}
MACRO = (
    "Precision, recall and F1 are unweighted means over classes, 0 for a class that is "
    "never predicted. The interval of the accuracy is Clopper and Pearson's, of 95 % "
    "over test examples; it says nothing of other seeds."
)
FAR = (
    "It is the mean gap between confidence, the probability of the predicted class, "
    f"and accuracy, over {BINS} bins of confidence (Guo et al. 2017)."
)


def page(
    evaluation: Evaluation,
    images: UInt8[np.ndarray, "examples H W C"],
    command: list[str],
    folder: Path,
) -> str:
    """The evaluation as HTML that needs no other file.

    Args:
      images: of the test set.
      command: what was typed, to repeat it.
      folder: for files that are drawn; they are not needed afterwards.
    """
    trained, scores = evaluation.trained, evaluation.scores
    accuracy = scores.accuracy
    found = (
        f"loss {scores.loss:.4g}" if accuracy is None else f"accuracy {accuracy:.4f}"
    )
    sections = [
        Section(
            "scores", "How good is it?", (*_scores(evaluation), *_by_class(evaluation))
        ),
        Section(
            "calibration",
            "Is it as sure as it is right?",
            _calibration(evaluation, folder),
        ),
        Section("confusion", "What is confused with what?", _confusion(evaluation)),
        Section(
            "mistakes", "The most confident mistakes", _mistakes(evaluation, images)
        ),
        Section(
            "again", "To repeat it", (Commands((f"python {shlex.join(command)}",)),)
        ),
    ]
    name = to_html(trained.config.name)
    return html.document(
        f"{trained.config.name}: {found}",
        f"""<h1>{name}: {found}</h1>
<p>{to_html(_what(evaluation))}</p>
{html.in_lines(items(evaluation.notes))}
{html.rendered(sections)}
""",
    )


def _what(evaluation: Evaluation) -> str:
    trained = evaluation.trained
    step = "" if trained.step is None else f", after step {trained.step:,}"
    average = trained.config.optim.ema_decay is not None
    return (
        f"{'The average of the' if average else 'The'} {trained.name} weights of "
        f"{trained.run.resolve().name}{step}, trained by "
        f"{FRAMEWORKS[trained.framework]} and evaluated by "
        f"{FRAMEWORKS[evaluation.framework]} in {evaluation.precision} on "
        f"{format_count(evaluation.devices, 'device')}: "
        f"{format_count(evaluation.scores.examples, 'test example')} of "
        f"{trained.config.data.name}."
    )


def _scores(evaluation: Evaluation) -> Iterator[Block]:
    scores, recorded = evaluation.scores, evaluation.trained.test
    own = [entry(getattr(scores, name), ".4f") for name in NAMES]
    own[1] = entry(scores.accuracy_estimate, ".4f")
    rows = [["evaluated here", *own]]
    if recorded is not None:
        values = [entry(recorded[name], ".4f") for name in NAMES]
        rows.append(["recorded by the run", *values])
    yield from table(("scores", *NAMES.values()), rows, "On the test set")
    if scores.accuracy is not None:
        yield Text(MACRO)


def _names(evaluation: Evaluation) -> list[str]:
    """Each class by its number in the files, and by its name where it has one."""
    numbered = enumerate(evaluation.labels, evaluation.trained.config.data.label_offset)
    return [name if name == str(n) else f"{n} {name}" for n, name in numbered]


def _by_class(evaluation: Evaluation) -> list[Block]:
    names = _names(evaluation)
    rows = [
        [
            Entry(names[c.label], c.label),
            entry(c.examples, ",d"),
            *(entry(value, ".4f") for value in (c.precision, c.recall, c.f1)),
        ]
        for c in evaluation.scores.classes
    ]
    head = ("class", "examples", "precision", "recall", "F1")
    return table(head, rows, "Each class among the others")


def _calibration(evaluation: Evaluation, folder: Path) -> tuple[Block, ...]:
    scores = evaluation.scores
    if scores.ece is None:
        return ()
    chart = reliability_diagram(evaluation)
    _, svg = draw(chart, folder)
    rows = [
        [
            Entry(f"{b.low:.3f} to {b.high:.3f}", b.low),
            entry(b.examples, ",d"),
            entry(b.confidence, ".4f"),
            entry(fraction_estimate(b.right, b.examples), ".4f"),
        ]
        for b in scores.calibration
        if b.examples
    ]
    head = ("confidence", "examples", "mean confidence", "accuracy")
    return (
        Text(f": {scores.ece:.4f}. {FAR}", "Expected calibration error"),
        Figures(((chart, svg),)),
        *table(head, rows, "Test examples by confidence, without empty bins"),
    )


def reliability_diagram(evaluation: Evaluation) -> Chart:
    """Accuracy over confidence, bin by bin."""
    name = FRAMEWORKS[evaluation.framework]
    exact = "accuracy = confidence"
    rows = [Row(exact, "", "bound", x, x) for x in (0.0, 1.0)]
    rows += [
        row_of(
            name,
            evaluation.framework,
            b.confidence,
            fraction_estimate(b.right, b.examples),
        )
        for b in evaluation.scores.calibration
        if b.examples
    ]
    return Chart(
        name="reliability",
        section="calibration",
        title="Reliability diagram",
        x_label="mean confidence of a bin",
        y_label="accuracy",
        caption="Above the dotted line the model is more often right than it is sure, "
        "below it less often. Bars are 95 % intervals: a bin of few examples says "
        "little.",
        rows=tuple(rows),
        form="fractions",
    )


def _confusion(evaluation: Evaluation) -> tuple[Block, ...]:
    matrix, names = evaluation.scores.confusion, _names(evaluation)
    pairs = sorted(
        (
            (-count, true, predicted)
            for true, row in enumerate(matrix)
            for predicted, count in enumerate(row)
            if count and true != predicted
        )
    )[:MOST_PAIRS]
    often = [
        [
            Entry(names[true], true),
            Entry(names[predicted], predicted),
            entry(-count, ",d"),
            entry(-count / sum(matrix[true]), ".1%"),
        ]
        for count, true, predicted in pairs
    ]
    head = ("class", "predicted", "examples", "of the class")
    blocks = table(head, often, "The most frequent confusions")
    if 0 < len(matrix) <= MOST_CLASSES:
        rows = [
            [Entry(names[true], true), *(Entry(f"{count:,}", count) for count in row)]
            for true, row in enumerate(matrix)
        ]
        head = ("class", *(name.partition(" ")[0] for name in names))
        blocks += table(head, rows, "Examples of each class by predicted class")
    return tuple(blocks)


def _mistakes(
    evaluation: Evaluation, images: UInt8[np.ndarray, "examples H W C"]
) -> tuple[Block, ...]:
    scores, labels = evaluation.scores, evaluation.labels
    if not scores.mistakes:
        return (Text("None: every prediction is right."),) if scores.classes else ()
    shown = tuple(
        (
            png(images[m.example]),
            f"{labels[m.label]} as {labels[m.predicted]}, {m.confidence:.1%} "
            f"(example {m.example})",
        )
        for m in scores.mistakes
    )
    text = "The class, the predicted one, and its probability; examples count from 0."
    return Text(text), Images(shown)
