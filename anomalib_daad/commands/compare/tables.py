# SPDX-License-Identifier: Apache-2.0

"""Tables of what was measured: models side by side, for the page and for papers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from anomalib_daad.commands.shared.output_folder import Row

from .finding import MEASURES, Finding, auroc_by_kind
from .trial import Trial

_NAMES = {
    "auroc": "image AUROC",
    "f1": "F1 at the threshold",
    "fpr95": "false alarms at 95% recall",
    "auroc_pixel": "pixel AUROC",
    "aupro": "AUPRO",
}
_COSTS = {
    "train_seconds": "training, s",
    "train_peak_mb": "training memory, MB",
    "torch_ms": "PyTorch, ms an image",
    "torch_images_per_second": "PyTorch, images/s",
    "openvino_ms": "OpenVINO, ms an image",
    "openvino_images_per_second": "OpenVINO, images/s",
    "openvino_peak_mb": "OpenVINO memory, MB",
    "deployed_mb": "deployed file, MB",
}


class Table(NamedTuple):
    """A table.

    Attributes:
        header (Sequence[str]): Names of the columns.
        rows (Sequence[Sequence[str]]): Cells; the first of a row names it.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def _number(finding: Finding, name: str) -> str:
    value, bounds = finding.measures[name], finding.intervals[name]
    if value is None:
        return "not measured"
    if bounds is None or bounds[0] == bounds[1]:  # a bootstrap of scores without an error knows no other
        return f"{value:.3f}"
    return f"{value:.3f} ({bounds[0]:.3f} to {bounds[1]:.3f})"


def accuracy_table(findings: Sequence[Finding]) -> Table:
    """Tell how accurate models are, with 95% intervals in brackets.

    Args:
        findings (Sequence[Finding]): What they found on one data set.

    Returns:
        Table: A row for each measure, a column for each model.
    """
    rows = [[_NAMES[name], *(_number(finding, name) for finding in findings)] for name in MEASURES]
    rows.append(["pretrained weights", *(weights_of(finding.trial) for finding in findings)])
    return Table(["", *(finding.name for finding in findings)], rows)


def cost_table(findings: Sequence[Finding], costs: Mapping[str, Row]) -> Table:
    """Tell what models cost.

    Args:
        findings (Sequence[Finding]): What they found on the data set that costs were measured on.
        costs (Mapping[str, Row]): Of each model what it costs.

    Returns:
        Table: A row for each cost, a column for each model.
    """
    values = [{**finding.facts, **costs.get(finding.name, {})} for finding in findings]
    rows = [[text, *(_quantity(of_model.get(name)) for of_model in values)] for name, text in _COSTS.items()]
    return Table(["", *(finding.name for finding in findings)], rows)


def _quantity(value: float | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def kind_table(findings: Sequence[Finding]) -> Table:
    """Tell the image AUROC of each kind of defect.

    Args:
        findings (Sequence[Finding]): What models found on one data set.

    Returns:
        Table: A row for each kind, a column for each model.
    """
    rows = [
        [kind, *("" if value is None else f"{value:.3f}" for value in values)]
        for kind, values in auroc_by_kind(findings).items()
    ]
    return Table(["defect", *(finding.name for finding in findings)], rows)


def weights_of(trial: Trial) -> str:
    """Name the pretrained weights that a trial started from.

    Args:
        trial (Trial): Trial.

    Returns:
        str: ``"anomalib's"``, a file's name, or ``"none"``.
    """
    if trial.contestant.is_from_scratch(trial.pretrained and trial.backbone_weights is None):
        is_given = trial.backbone_weights is not None and trial.contestant.takes_backbone
        return Path(str(trial.backbone_weights)).name if is_given else "none"
    return "anomalib's"
