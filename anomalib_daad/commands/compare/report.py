# SPDX-License-Identifier: Apache-2.0

"""The report: a page for people, a Markdown table for papers, CSV and JSON for programs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from anomalib_daad.commands.shared.output_folder import Row, write_table, write_text
from anomalib_daad.error_message import first_line

from .advice import Advice, advise
from .cost import measure_costs
from .finding import MEASURES, Finding, find
from .page import Comparison, write_page
from .tables import accuracy_table, cost_table, kind_table, weights_of
from .trained_models import load
from .trial import Trial


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
    return write_page(Comparison(by_data, by_model, largest, costs, advice, conditions, failed), output)


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
        "weights": weights_of(trial),
    }


def _flat(finding: Finding) -> Row:
    flat: Row = {}
    for name in MEASURES:
        low, high = finding.intervals[name] or (None, None)
        flat |= {f"{name}_low": low, f"{name}_high": high}
    return flat


def _facts(finding: Finding) -> Row:
    return {name: value for name, value in finding.facts.items() if name != "pixel_threshold"}


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


def _markdown(
    by_data: Mapping[str, Sequence[Finding]],
    largest: str,
    costs: Mapping[str, Row],
    advice: Advice,
    conditions: Mapping[str, str],
    failed: Mapping[str, str],
) -> str:
    lines = ["# Comparison", "", advice.verdict, "", " ".join(advice.sentences), ""]
    for name, findings in by_data.items():
        lines += [f"## {name}", "", *_markdown_table(*accuracy_table(findings)), ""]
        if findings[0].labels.any():
            lines += [*_markdown_table(*kind_table(findings)), ""]
    lines += ["## Cost", "", *_markdown_table(*cost_table(by_data[largest], costs)), ""]
    lines += [f"- {name}: {value}" for name, value in conditions.items()]
    lines += [f"- {name} failed: {reason}" for name, reason in failed.items()]
    return "\n".join(lines) + "\n"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = (header, ["---"] * len(header), *rows)
    return [f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |" for cells in lines]
