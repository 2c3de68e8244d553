# SPDX-License-Identifier: Apache-2.0

"""The configurations that the package brings, by name."""

import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import anomalib_daad
from anomalib_daad.commands.command_line import main

CONFIGS = Path(__file__).parents[2] / "configs"


def run(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["anomalib-daad", *arguments])
    main()


@pytest.mark.parametrize("name", ["daad_restoration", "demo.yaml"])
def test_a_configuration_is_printed_as_it_is(name, monkeypatch, capsys) -> None:
    run(monkeypatch, "config", name)
    assert capsys.readouterr().out == (CONFIGS / f"{name.removesuffix('.yaml')}.yaml").read_text()


def test_a_configuration_is_written_and_replaces_nothing(monkeypatch, capsys, tmp_path) -> None:
    run(monkeypatch, "config", "daad_cpu", "--output", str(tmp_path / "mine.yaml"))
    assert (tmp_path / "mine.yaml").read_text() == (CONFIGS / "daad_cpu.yaml").read_text()
    with pytest.raises(SystemExit):
        run(monkeypatch, "config", "memae", "--output", str(tmp_path / "mine.yaml"))
    assert "mine.yaml is there already" in capsys.readouterr().err
    assert (tmp_path / "mine.yaml").read_text() == (CONFIGS / "daad_cpu.yaml").read_text()


def test_without_a_name_all_are_listed(monkeypatch, capsys) -> None:
    run(monkeypatch, "config")
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == sorted(
        path.stem for path in CONFIGS.glob("*.yaml")
    )


def test_a_misspelt_name_gets_the_nearest(monkeypatch, capsys) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, "config", "daad_restauration")
    assert "the nearest are daad_restoration" in capsys.readouterr().err


def test_the_version_is_the_distributions(monkeypatch, capsys) -> None:
    run(monkeypatch, "--version")
    assert capsys.readouterr().out == f"anomalib-daad {version('anomalib-daad')}\n"
    assert anomalib_daad.__version__ == version("anomalib-daad")
    assert dir(anomalib_daad) == sorted([*anomalib_daad.__all__, "__version__"])
