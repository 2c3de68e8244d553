# SPDX-License-Identifier: Apache-2.0

"""What numbers were measured on."""

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

_PACKAGES = ("anomalib-daad", "anomalib", "torch", "openvino")


def refuse_other_devices(device: str) -> None:
    """Refuse a device that is not there.

    Args:
        device (str): ``"cpu"`` or ``"cuda"``.

    Raises:
        ValueError: If it is neither, or there is no GPU.
    """
    if device not in {"cpu", "cuda"} or (device == "cuda" and not torch.cuda.is_available()):
        msg = f"There is no device {device} here; use --device cpu."
        raise ValueError(msg)


def describe_machine(device: str) -> str:
    """Name the machine, the versions and the day.

    Args:
        device (str): ``"cpu"`` or ``"cuda"``.

    Returns:
        str: One line.
    """
    name = torch.cuda.get_device_name() if device == "cuda" else _processor()
    versions = ", ".join(filter(None, map(_version, _PACKAGES)))
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    return f"{name}, {torch.get_num_threads()} threads, Python {platform.python_version()}, {versions}, {date}."


def describe_commit() -> str:
    """Name the code: the commit of the package, or its version where it is not in a repository.

    Returns:
        str: Commit, with ``-dirty`` where files differ from it; or a version.
    """
    git = ["git", "-C", str(Path(__file__).parent)]
    commands = ([*git, "ls-files", "--error-unmatch", __file__], [*git, "describe", "--always", "--dirty"])
    try:
        for command in commands:
            run_git = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603  # our own words
        return run_git.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        pass
    try:
        return version("anomalib-daad")
    except PackageNotFoundError:
        return "unknown"


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    flags = next((line for line in lines if line.startswith("flags")), "")
    extensions = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {flag}" in flags]
    return f"{model} ({', '.join(extensions)}; {os.cpu_count()} processors)"
