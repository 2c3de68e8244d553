# SPDX-License-Identifier: Apache-2.0

"""The report: a page for people, a Markdown table for papers, CSV and JSON for programs."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from inspect import signature
from pathlib import Path
from typing import Any

import anomalib.models
import torch
from anomalib.models import AnomalibModule
from matplotlib import rc_context

from anomalib_daad.commands.shared import html_page
from anomalib_daad.commands.shared.output_folder import Row, write_table, write_text
from anomalib_daad.commands.shared.picture import STYLE, Omission, Picture
from anomalib_daad.error_message import first_line

from .advice import Advice, advise, mean_aurocs
from .charts import draw_cost, draw_histograms, draw_roc
from .cost import measure_costs
from .finding import MEASURES, Finding, auroc_by_kind, find
from .gallery import gallery
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


def write_report(
    trials: Sequence[Trial],
    folders: Sequence[Path],
    failed: Mapping[str, str],
    output: Path,
    seconds: float,
    machine: str,
) -> Path:
    """Judge finished trials and write ``index.html``, ``report.md``, ``results.csv`` and ``results.json``.

    Args:
        trials (Sequence[Trial]): Finished trials.
        folders (Sequence[Path]): Their folders.
        failed (Mapping[str, str]): Trials that failed, with the reason.
        output (Path): Folder to write to.
        seconds (float): Time for each table of timings.
        machine (str): What it was measured on.

    Returns:
        Path: The page.
    """
    findings, failed = [], dict(failed)
    for trial, folder in zip(trials, folders, strict=True):
        finding = find(trial, folder)
        try:
            load(finding)  # and let go: all models of all data sets might not fit in memory
            findings.append(finding)
        except Exception as error:  # one checkpoint must not cost the report
            failed[f"{finding.name} on {trial.data.name}"] = f"its checkpoint cannot be read: {first_line(error)}"
    if not findings:
        msg = f"None of the trained models can be read: {'; '.join(failed.values())}"
        raise ValueError(msg)
    by_data: dict[str, list[Finding]] = {}
    for finding in findings:
        by_data.setdefault(finding.trial.data.name, []).append(finding)
    # Means compare like with like: models that finished on every data set.
    counts = [finding.name for finding in findings]
    by_model = {
        name: [finding for finding in findings if finding.name == name]
        for name in dict.fromkeys(counts)
        if counts.count(name) == len(by_data)
    }
    largest = max(by_data, key=lambda name: by_data[name][0].facts["train_images"])
    costs, machine = _costs(by_data[largest], output, seconds, machine)
    advice = advise(by_model, costs)

    rows = [
        {**_identity(finding), **finding.measures, **_flat(finding), **_facts(finding)}
        | (costs.get(finding.name, {}) if finding.trial.data.name == largest else {})
        for finding in findings
    ]
    write_table(rows, output / "results.csv")
    whole = {"machine": machine, "advice": advice._asdict(), "results": rows, "failed": failed}
    write_text(output / "results.json", json.dumps(whole, indent=1))
    conditions = _conditions(trials, machine, largest)
    write_text(output / "report.md", _markdown(by_data, largest, costs, advice, conditions, failed))

    with rc_context(STYLE):
        pictures = [draw_cost(mean_aurocs(by_model), costs)]
        (output / "pictures").mkdir(exist_ok=True)
        blocks = [
            *_summary(advice, failed),
            html_page.table(*_cost_table(by_data[largest], costs), caption=f"What the models cost ({largest})"),
            *(_picture(picture, output) for picture in pictures),
        ]
        for name, of_data in by_data.items():
            blocks += _data_blocks(name, of_data, output)
    blocks.append(html_page.section("How it was measured", html_page.facts(conditions)))
    page = output / "index.html"
    html_page.write_page(page, f"{', '.join(by_data)}: {', '.join(dict.fromkeys(counts))}", blocks)
    return page


def load(finding: Finding) -> AnomalibModule:
    """Read a trained model.

    Args:
        finding (Finding): Finding of its trial.

    Returns:
        AnomalibModule: The model in evaluation mode, on the CPU.
    """
    trial = finding.trial
    model_class: Any = getattr(anomalib.models, trial.contestant.class_path)
    # Checkpoints do not hold the pre-processor, whose size is some networks' size.
    sized = (
        {}
        if "image_size" in signature(model_class).parameters
        else {"pre_processor": model_class.configure_pre_processor((trial.image_size, trial.image_size))}
    )
    path = finding.folder / "model.ckpt"
    return model_class.load_from_checkpoint(path, map_location=torch.device("cpu"), weights_only=True, **sized).eval()


def _costs(findings: Sequence[Finding], output: Path, seconds: float, machine: str) -> tuple[dict[str, Row], str]:
    """Measure all models in one go; again only where other models are compared, or for another time."""
    path = output / "costs.json"
    trial = findings[0].trial
    compared = [[str(finding.folder.name) for finding in findings], seconds]
    if path.exists() and (saved := json.loads(path.read_text()))["compared"] == compared:
        return saved["costs"], saved["machine"]
    costs = measure_costs(
        {finding.name: load(finding) for finding in findings},
        {finding.name: finding.folder for finding in findings},
        max(finding.trial.image_size for finding in findings),
        seconds,
        trial.device,
    )
    write_text(path, json.dumps({"compared": compared, "costs": costs, "machine": machine}, indent=1))
    return costs, machine


def _identity(finding: Finding) -> Row:
    trial = finding.trial
    return {
        "data": trial.data.name,
        "model": finding.name,
        "image_size": trial.image_size,
        "seed": trial.seed,
        "good_test_images": int((~finding.labels).sum()),
        "defective_test_images": int(finding.labels.sum()),
        "weights": _weights(trial),
    }


def _flat(finding: Finding) -> Row:
    flat: Row = {}
    for name in MEASURES:
        low, high = finding.intervals[name] or (None, None)
        flat |= {f"{name}_low": low, f"{name}_high": high}
    return flat


def _facts(finding: Finding) -> Row:
    return {name: value for name, value in finding.facts.items() if name != "pixel_threshold"}


def _weights(trial: Trial) -> str:
    if trial.contestant.is_from_scratch(trial.pretrained and trial.backbone_weights is None):
        is_given = trial.backbone_weights is not None and trial.contestant.takes_backbone
        return Path(str(trial.backbone_weights)).name if is_given else "none"
    return "anomalib's"


def _conditions(trials: Sequence[Trial], machine: str, largest: str) -> dict[str, str]:
    arguments = trials[0].data.arguments
    sizes = {trial.contestant.name: f"{trial.image_size} x {trial.image_size}" for trial in trials}
    same = set(sizes.values())
    resized = same.pop() if len(same) == 1 else ", ".join(f"{size} ({name})" for name, size in sizes.items())
    validation = arguments.get(
        "val_split_mode", "same_as_test" if trials[0].data.class_path == "MVTecAD" else "its default"
    )
    where = {
        "same_as_test": "the test images themselves, where anomalib takes the score with the best F1; parts that score "
        "exactly that pass",
        "synthetic": "good images with made-up defects",
        "from_test": "a part of the test images, which is left out of all measures",
    }
    return {
        "Machine": machine,
        "Images": f"resized to {resized} pixels; seed {trials[0].seed}",
        "Thresholds": f"calibrated on {where.get(str(validation), str(validation))}",
        "Intervals": "95%, bootstrap over test images alone; training was done once, with one seed; no interval stands "
        "where no resample differed, which is not certainty: it saw no image of the kind that would be judged wrongly",
        "Costs": f"measured in one run, all models in turn, as trained on {largest}; in PyTorch each model as it is "
        "exported, Daad rewritten for inference",
        "Maps": "pixel measures are taken on what a model sees; some models crop or keep a size of their own",
    }


def _number(finding: Finding, name: str) -> str:
    value, bounds = finding.measures[name], finding.intervals[name]
    if value is None:
        return "not measured"
    if bounds is None or bounds[0] == bounds[1]:  # a bootstrap of scores without an error knows no other
        return f"{value:.3f}"
    return f"{value:.3f} ({bounds[0]:.3f} to {bounds[1]:.3f})"


def _accuracy_table(findings: Sequence[Finding]) -> tuple[list[str], list[list[str]]]:
    rows = [[_NAMES[name], *(_number(finding, name) for finding in findings)] for name in MEASURES]
    rows.append(["pretrained weights", *(_weights(finding.trial) for finding in findings)])
    return ["", *(finding.name for finding in findings)], rows


def _cost_table(findings: Sequence[Finding], costs: Mapping[str, Row]) -> tuple[list[str], list[list[str]]]:
    values = [{**finding.facts, **costs.get(finding.name, {})} for finding in findings]
    rows = [[text, *(_quantity(of_model.get(name)) for of_model in values)] for name, text in _COSTS.items()]
    return ["", *(finding.name for finding in findings)], rows


def _quantity(value: float | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _kind_table(findings: Sequence[Finding]) -> tuple[list[str], list[list[str]]]:
    rows = [
        [kind, *("" if value is None else f"{value:.3f}" for value in values)]
        for kind, values in auroc_by_kind(findings).items()
    ]
    return ["defect", *(finding.name for finding in findings)], rows


def _markdown(
    by_data: Mapping[str, Sequence[Finding]],
    largest: str,
    costs: Mapping[str, Row],
    advice: Advice,
    conditions: Mapping[str, str],
    failed: Mapping[str, str],
) -> str:
    lines = ["# Comparison", "", " ".join(advice.sentences), ""]
    for name, findings in by_data.items():
        lines += [f"## {name}", "", *_markdown_table(*_accuracy_table(findings)), ""]
        if findings[0].labels.any():
            lines += [*_markdown_table(*_kind_table(findings)), ""]
    lines += ["## Cost", "", *_markdown_table(*_cost_table(by_data[largest], costs)), ""]
    lines += [f"- {name}: {value}" for name, value in conditions.items()]
    lines += [f"- {name} failed: {reason}" for name, reason in failed.items()]
    return "\n".join(lines) + "\n"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = (header, ["---"] * len(header), *rows)
    return [f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |" for cells in lines]


def _summary(advice: Advice, failed: Mapping[str, str]) -> list[str]:
    blocks = [f'<p class="summary">{escape(" ".join(advice.sentences))}</p>']
    if failed:
        reasons = "".join(f"<li>{escape(name)}: {escape(reason)}</li>" for name, reason in failed.items())
        blocks.append(f"<p>These failed and are not compared:</p><ul>{reasons}</ul>")
    return blocks


def _picture(picture: Picture | Omission, output: Path) -> str:
    if isinstance(picture, Omission):
        return html_page.picture_section(picture)
    return html_page.picture_section((picture, picture.save(output / "pictures")))


def _data_blocks(name: str, findings: Sequence[Finding], output: Path) -> list[str]:
    table = html_page.table(*_accuracy_table(findings), caption="Accuracy, with 95% intervals in brackets")
    blocks = [html_page.section(name, table)]
    if findings[0].labels.any():
        kinds = html_page.table(*_kind_table(findings), caption="Image AUROC by kind of defect")
        blocks.append(html_page.section(f"Kinds of defects: {name}", kinds))
    blocks += [_picture(draw_roc(findings), output), _picture(draw_histograms(findings), output)]
    intro = (
        "<p>First the defective images that each model finds least suspicious, its worst misses; then the good ones "
        "that it finds most suspicious, its worst false alarms. Bright: what the model objects to.</p>"
    )
    blocks.append(
        html_page.section(
            f"The most telling images: {name}", intro, gallery(findings, [load(finding) for finding in findings])
        )
    )
    return blocks
