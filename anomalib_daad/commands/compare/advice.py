# SPDX-License-Identifier: Apache-2.0

"""Which model to pick, in sentences that a production engineer understands."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import NamedTuple

import numpy as np

from anomalib_daad.commands.shared.output_folder import Row
from anomalib_daad.commands.shared.tally import Tally, add

from .cost import runtime
from .finding import Finding
from .measures import auroc, on_resample, resample
from .progress import duration

MARGIN = 0.02  # of the image AUROC: less is no reason to take the slower model
FEW = 20  # test images of a kind: on fewer, one image more or less changes the advice
CHANCE = 0.6  # image AUROC below which a model is of no use, whatever its mean is
WITHOUT_DEFECTS = (
    "The test images are not both good and defective, so only what the models cost and what they reject is measured. "
    "Add some defective images to learn more."
)


class Advice(NamedTuple):
    """What to pick, and why.

    Attributes:
        choice (str | None): Name of the model; None where accuracy cannot be measured.
        verdict (str): What it finds and how fast it is, in a sentence.
        sentences (list[str]): Why, and at what cost.
    """

    choice: str | None
    verdict: str
    sentences: list[str]


def advise(findings: Mapping[str, Sequence[Finding]], costs: Mapping[str, Row]) -> Advice:
    """Pick the fastest of the models that are as good as the most accurate one, as far as the test images tell.

    Args:
        findings (Mapping[str, Sequence[Finding]]): Of each model what it found on each data set, in the same order.
        costs (Mapping[str, Row]): Of each model what it costs.

    Returns:
        Advice: The advice.
    """
    means = mean_aurocs(findings)
    known = {name: value for name, value in means.items() if value is not None}
    if not findings:
        return Advice(None, "No model finished on all data sets, so that none can be advised.", [])
    if not known:
        return Advice(None, _verdict_without_defects(findings), [WITHOUT_DEFECTS])
    best = max(known, key=lambda name: known[name])
    ahead = {name: lead(findings[best], findings[name]) for name in known if name != best}
    equals = [best, *(name for name, (_, high) in ahead.items() if high < MARGIN)]
    unsure = [name for name, (low, high) in ahead.items() if low <= 0 and high >= MARGIN]
    key, runner = runtime(costs)
    times = {name: costs.get(name, {}).get(key) for name in known}
    choice = min(equals, key=lambda name: (times[name] or np.inf, -known[name]))
    rivals = sorted((name for name in known if name != choice), key=lambda name: -known[name])
    paces = [_pace(name, value / time) for name in rivals if (value := times[name]) and (time := times[choice])]
    tested = sum(len(finding.labels) for finding in findings[best])
    sentences = [f"Pick {choice}: its image AUROC is {known[choice]:.3f} on {_count(findings[best])}."]
    if choice != best:
        sentences.append(
            f"{best} has {known[best]:.3f}: on these test images no difference that matters, and {choice} is faster."
        )
    elif len(equals) > 1:
        others = " and ".join(name for name in equals if name != choice)
        sentences.append(f"{others} found as much on these test images, but {choice} is faster.")
    elif len(known) > 1:
        second = max((name for name in known if name != best), key=lambda name: known[name])
        sentences.append(f"The next best, {second}, has {known[second]:.3f}.")
    useless = [it.trial.data.name for it in findings[choice] if (it.measures["auroc"] or 0) < CHANCE]
    if useless:
        elsewhere = [name for name in known if all((it.measures["auroc"] or 0) >= CHANCE for it in findings[name])]
        instead = (
            f"there, or everywhere, take {' or '.join(elsewhere)}" if elsewhere else "no model here is of use there"
        )
        sentences.append(f"But on {' and '.join(useless)} it does not tell good from defective: {instead}.")
    if unsure:
        sentences.append(
            f"{tested} test images are too few to be sure that {best} is better than {' and '.join(unsure)}."
        )
    if (count := min(min((~it.labels).sum(), it.labels.sum()) for it in findings[choice])) < FEW:
        sentences.append(f"With {count} test images of a kind all this is a first hint: more of them may change it.")
    sentences.append("Each model was trained once, with one seed.")
    if time := times[choice]:
        told = f"It takes {time:.3g} ms for an image in {runner}"
        sentences.append(f"{told}: {', '.join(paces)}." if paces else f"{told}.")
    train = mean(finding.facts["train_seconds"] for finding in findings[choice])
    sentences.append(f"It trained in {duration(train)} on {_images(findings[choice])} good images.")
    return Advice(choice, _verdict(choice, findings[choice], paces), sentences)


def mean_aurocs(findings: Mapping[str, Sequence[Finding]]) -> dict[str, float | None]:
    """Mean image AUROC of each model over the data sets.

    Args:
        findings (Mapping[str, Sequence[Finding]]): Of each model what it found on each data set.

    Returns:
        dict[str, float | None]: None where it could not be measured on all of them.
    """
    means: dict[str, float | None] = {}
    for name, of_model in findings.items():
        values = [value for finding in of_model if (value := finding.measures["auroc"]) is not None]
        means[name] = mean(values) if values and len(values) == len(of_model) else None
    return means


def lead(first: Sequence[Finding], second: Sequence[Finding]) -> tuple[float, float]:
    """By how much the first model's mean image AUROC is ahead.

    Args:
        first (Sequence[Finding]): What a model found on each data set.
        second (Sequence[Finding]): What another found on the same, in the same order.

    Returns:
        tuple[float, float]: 95% bootstrap interval over the test images, both models on the same resamples.
    """
    differences = []
    for seed, pair in enumerate(zip(first, second, strict=True)):
        values = [
            resample(finding.labels, on_resample(auroc, finding.labels, finding.scores), seed=seed) for finding in pair
        ]
        if values[0] is not None and values[1] is not None:
            differences.append(values[0] - values[1])
    low, high = np.quantile(np.mean(differences, axis=0), (0.025, 0.975))
    return float(low), float(high)


def _count(findings: Sequence[Finding]) -> str:
    if len(findings) == 1:
        labels = findings[0].labels
        return f"{findings[0].trial.data.name} ({(~labels).sum()} good and {labels.sum()} defective test images)"
    return f"average over {len(findings)} data sets"


def tally(findings: Sequence[Finding]) -> Tally | None:
    """Count what a model judges rightly on all data sets.

    Args:
        findings (Sequence[Finding]): What it found on each.

    Returns:
        Tally | None: The sum; None where it lacks a threshold on one of them.
    """
    tallies = [it.tally for it in findings]
    return None if None in tallies else add(it for it in tallies if it is not None)


def _verdict(choice: str, findings: Sequence[Finding], paces: Sequence[str]) -> str:
    counted = tally(findings)
    everywhere = f", over all {len(findings)} data sets" if len(findings) > 1 else ""
    told = f"{choice} {counted}" if counted else f"{choice} tells good from defective best, but has no threshold yet"
    return f"{told}{everywhere}; it is {paces[0]}." if paces else f"{told}{everywhere}."


def _pace(other: str, ratio: float) -> str:
    """How fast a model is beside another one that takes so many times as long."""
    if 0.95 < ratio < 1.05:
        return f"about as fast as {other}"
    times, word = (ratio, "fast") if ratio > 1 else (1 / ratio, "slow")
    return f"{times:.0f} times as {word} as {other}" if times >= 9.95 else f"{times:.2g} times as {word} as {other}"


def _verdict_without_defects(findings: Mapping[str, Sequence[Finding]]) -> str:
    """What good test images tell alone: how many of them are rejected."""
    told = [
        f"{name} rejects {counted.rejected} of {counted.good} good parts"
        for name, of_model in findings.items()
        if (counted := tally([it for it in of_model if not it.labels.any()])) is not None and counted.good
    ]
    if not told:
        return "Nothing here says which model finds defects."
    return f"{', '.join(told)}; nothing here says which model finds defects."


def _images(findings: Sequence[Finding]) -> str:
    counts = sorted({finding.facts["train_images"] for finding in findings})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
