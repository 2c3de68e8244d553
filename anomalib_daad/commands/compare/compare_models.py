# SPDX-License-Identifier: Apache-2.0

"""The command: models side by side, each trained and tested on the same data, and a report."""

import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from statistics import mean
from typing import IO

from filelock import FileLock
from rich import print as rich_print
from rich.console import Console
from rich.markup import escape

from anomalib_daad.commands.shared.machine import describe_machine, refuse_other_devices
from anomalib_daad.commands.shared.output_folder import prepare_folder

from .contestant import Contestant
from .data import find_data, fingerprint
from .progress import duration
from .report import write_report
from .trial import PROGRESS, Trial

POLL = 0.5  # seconds


def compare(
    data: Path,
    models: list[str] = ["DaadRestoration", "Padim", "Patchcore"],  # noqa: B006
    categories: list[str] | None = None,
    image_size: int = 256,
    steps: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
    validation: str | None = None,
    pretrained: bool = True,
    backbone: str | None = None,
    backbone_weights: Path | None = None,
    device: str = "cpu",
    seconds: float = 20.0,
    output: Path = Path("comparison"),
) -> None:
    """Train and test models on the same images, measure what they find and what they cost, and write a report.

    A finished model is not trained again; a training that was stopped goes on. A model that fails is reported, and the
    others go on.

    Args:
        data: A root in MVTec AD's layout (CATEGORY/train/good) or one category of it; a folder with good images in
            good and, if there are any, defective ones in other folders; or a YAML file of a datamodule.
        models: Names of anomalib's models, or YAML files as "anomalib train --config" takes them.
        categories: Categories of the root; all of them if not given.
        image_size: Height and width that images are resized to, for models whose configuration does not say.
        steps: Steps of the trainings whose recipe does not say how long they are; if not given the model's own (3000
            of DaadRestoration), or 1000.
        batch_size: Images a step of the trainings whose recipe does not say.
        seed: Seed of splits and trainings.
        validation: Images that thresholds are calibrated on, anomalib's val_split_mode (same_as_test, from_test,
            synthetic); the data's default if not given.
        pretrained: Use weights that were trained elsewhere; --no-pretrained trains all models from scratch.
        backbone: Backbone of the models that have one, for example resnet18; their own if not given.
        backbone_weights: Safetensors file with its weights, where they cannot be downloaded.
        device: cpu or cuda.
        seconds: Time for each table of timings.
        output: Folder for index.html, report.md, results.csv, results.json and a folder for each model.

    Raises:
        ValueError: If a model, the data, the weights or the device do not fit.
        OSError: If the output folder cannot be written to.
    """
    refuse_other_devices(device)
    if backbone_weights is not None and not (pretrained and backbone_weights.is_file()):
        msg = f"There is no file {backbone_weights}." if pretrained else "--no-pretrained excludes --backbone-weights."
        raise ValueError(msg)
    contestants = [Contestant.parse(name) for text in models for name in text.split(",")]
    if len({contestant.name for contestant in contestants}) < len(contestants):
        msg = f"Each model can stand in the comparison once, got {', '.join(it.name for it in contestants)}."
        raise ValueError(msg)
    found = find_data(data, categories, validation)
    weights = None if backbone_weights is None else str(backbone_weights.resolve())
    # What needs no weights is the same trial with any.
    choices = {True: (True, None, None), False: (pretrained, backbone, weights)}
    trials = [
        Trial(each, it, each.image_size or image_size, steps, batch_size, seed, device, *choices[each.needs_no_weights])
        for it in found
        for each in contestants
    ]
    for it in found:
        it.build(batch_size, batch_size, seed)  # what does not fit is said before anything is trained
    failed = _misfits(trials[: len(contestants)])
    for name, reason in failed.items():
        rich_print(escape(f"{name} is left out: {reason}"))
    prepare_folder(output)
    trials = [trial for trial in trials if trial.contestant.name not in failed]
    failed |= _run_all(trials, output)
    finished = [trial for trial in trials if (folder_of(trial, output) / "result.json").exists()]
    if not finished:
        raise ValueError(_told(failed))
    with FileLock(output / ".lock"):
        page = write_report(
            finished,
            [folder_of(trial, output) for trial in finished],
            failed,
            output,
            seconds,
            describe_machine(device),
        )
        rich_print(f"[bold]{len(finished)} of {len(contestants) * len(found)} models[/bold] -> {escape(str(page))}")
    if failed:
        msg = f"{len(failed)} of {len(contestants) * len(found)} models failed and will be tried again next time: "
        raise ValueError(msg + _told(failed))


def folder_of(trial: Trial, output: Path) -> Path:
    """Folder of a trial: another for everything that makes another result.

    Args:
        trial (Trial): Trial.
        output (Path): Output folder.

    Returns:
        Path: The folder; may not exist.
    """
    weights = "" if trial.backbone_weights is None else fingerprint(Path(trial.backbone_weights))
    mark = sha256(f"{trial}{weights}".encode()).hexdigest()[:8]
    return output / "models" / f"{trial.data.name}_{trial.contestant.name}_{mark}"


def _misfits(trials: Sequence[Trial]) -> dict[str, str]:
    """Models that cannot be built, and why; an error where none can."""
    failed: dict[str, str] = {}
    for trial in trials:
        try:
            trial.build()
        except ValueError as error:
            failed[trial.contestant.name] = str(error)
    if len(failed) == len(trials):
        raise ValueError("; ".join(failed.values()))
    return failed


def _told(failed: Mapping[str, str]) -> str:
    return "; ".join(reason if reason.startswith(name) else f"{name}: {reason}" for name, reason in failed.items())


def _run_all(trials: Sequence[Trial], output: Path) -> dict[str, str]:
    failed: dict[str, str] = {}
    durations: dict[str, list[float]] = {}
    is_finished = [(folder_of(trial, output) / "result.json").exists() for trial in trials]
    if any(is_finished):
        rich_print(f"{sum(is_finished)} of {len(trials)} are finished already and are not run again")
    for number, trial in enumerate(trials):
        folder = folder_of(trial, output)
        name = f"{trial.contestant.name} on {trial.data.name}"
        if is_finished[number]:
            continue
        rest = [it.contestant.name for it, done in zip(trials[number:], is_finished[number:], strict=True) if not done]
        left = f", about {duration(_time_left(durations, rest))} left" if durations else ""
        rich_print(escape(f"{number + 1} of {len(trials)}: {name}{left} (its messages: {folder / 'log.txt'})"))
        start = time.perf_counter()
        try:
            reason = _run(trial, folder)
        except OSError as error:  # no space left, say: what is finished is still reported
            reason = str(error)
        durations.setdefault(trial.contestant.name, []).append(time.perf_counter() - start)
        if reason is not None:
            failed[name] = reason
            rich_print(escape(f"{name} failed: {reason}"))
    return failed


def _time_left(durations: Mapping[str, Sequence[float]], rest: Sequence[str]) -> float:
    """Time in seconds that models take as long as they took on other data; as all did on average where they are new."""
    average = mean(value for values in durations.values() for value in values)
    return sum(mean(durations.get(name, [average])) for name in rest)


def _run(trial: Trial, folder: Path) -> str | None:
    """Run a trial in a process of its own.

    Args:
        trial (Trial): Trial.
        folder (Path): Its folder.

    Returns:
        str | None: Why it failed; None if it did not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trial.write(folder / "trial.json")
    for name in ("error.txt", PROGRESS):
        (folder / name).unlink(missing_ok=True)
    command = [sys.executable, "-m", "anomalib_daad.commands.compare.trial", str(folder)]
    with (folder / "log.txt").open("a") as log:
        status = _follow(command, log, folder / PROGRESS, f"{trial.contestant.name} on {trial.data.name}")
    if status == 0:
        return None
    if (folder / "error.txt").exists():
        return (folder / "error.txt").read_text()
    if status == -signal.SIGKILL:
        return "its process was killed, as the system does where memory runs out"
    lines = [line for line in (folder / "log.txt").read_text().splitlines() if line.strip()]
    return lines[-1] if lines else f"its process ended with status {status}"


def _follow(command: Sequence[str], log: IO[str], progress: Path, name: str) -> int:
    """Run a command and show how far it is; it ends with this process's interruption.

    Args:
        command (Sequence[str]): Words of the command.
        log (IO[str]): Gets what it prints.
        progress (Path): File that it writes how far it is to.
        name (str): What it is called.

    Returns:
        int: Its exit status.
    """
    with (
        Console().status(escape(name)) as status,
        subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT) as process,  # noqa: S603  # our own words
    ):
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    return process.wait(POLL)
                told = f": {progress.read_text()}" if progress.exists() else ""
                status.update(escape(f"{name}{told}"))
        except BaseException:
            process.kill()
            raise
