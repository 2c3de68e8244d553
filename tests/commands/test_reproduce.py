# SPDX-License-Identifier: Apache-2.0

"""The tables of the paper: their numbers, the cells, and what stopping, sharing and failing do to them."""

import csv
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from statistics import mean

import pytest
import torch
from anomalib.engine import Engine
from filelock import FileLock
from sklearn.metrics import roc_auc_score

from anomalib_daad.commands.command_line import CommandParser, plain_options
from anomalib_daad.commands.reproduce import cell as cells
from anomalib_daad.commands.reproduce import command, paper, tables
from anomalib_daad.commands.reproduce.command import reproduce, results
from anomalib_daad.commands.reproduce.systems import SYSTEMS
from anomalib_daad.commands.shared.pixel_measures import measure_pixels

TINY = {"base_channels": 4, "num_items": 5}
RUN = {"image_size": 32, "batch_size": 4, "precision": "32-true"}


@pytest.fixture(autouse=True)
def _tiny(monkeypatch) -> None:
    """Small models; the division rates fit 32 px."""
    defaults = {**TINY, "image_cache_gb": 0.1}
    monkeypatch.setitem(cells.DEFAULTS, "mvtec", defaults)
    for name in ("DAAD", "DAAD+"):
        system = SYSTEMS[name]
        monkeypatch.setitem(SYSTEMS, name, system._replace(arguments={**system.arguments, "division_rates": (2, 2, 1)}))


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def refuse(*_, **__) -> None:
    msg = "nothing is to be trained"
    raise AssertionError(msg)


def test_numbers_of_the_paper_agree_with_its_means() -> None:
    assert len(paper.TABLE_3) == 15
    for system, printed in paper.TABLE_3_MEANS.items():
        assert mean(row[system] for row in paper.TABLE_3.values()) == pytest.approx(printed, abs=1e-3)
    # The three tables share these systems.
    assert paper.TABLE_4[8] == paper.TABLE_3_MEANS["DAAD"] == paper.TABLE_5["DAAD", False, False, "R"]
    assert paper.TABLE_5["DAAD", True, True, "fused"] == paper.TABLE_3_MEANS["DAAD+"]
    assert paper.TABLE_5["AE", False, False, "R"] == paper.TABLE_3_MEANS["AE"]
    assert paper.TABLE_5["MemAE", False, False, "R"] == paper.TABLE_3_MEANS["MemAE"]


@pytest.mark.parametrize("table", ["table2", "table3", "table4", "table5"])
def test_every_system_of_a_table_exists(table) -> None:
    entries = tables.entries(table, "mnist" if table == "table2" else "mvtec", None)
    assert {entry.system for entry in entries} <= SYSTEMS.keys()
    if table == "table5":
        assert len(entries) == 15
        assert len({entry.system for entry in entries}) == 9  # what differs in the score alone is trained once


@pytest.mark.parametrize("system", sorted(SYSTEMS))
@pytest.mark.parametrize(("dataset", "image_size"), [("mvtec", 256), ("mnist", 32), ("cifar10", 32)])
def test_every_system_can_be_built(system, dataset, image_size, monkeypatch) -> None:
    monkeypatch.undo()
    cell = cells.Cell(dataset, system, "0", image_size, 1, None, 4, "32-true", "", 0)
    if dataset != "mvtec" and system == "DAAD, r = 16":
        with pytest.raises(ValueError, match="32x32"), torch.device("meta"):
            cell.build()
        return
    with torch.device("meta"):
        model = cell.build()
    assert model.flips == SYSTEMS[system].arguments.get("flips", dataset == "mvtec")


def test_cells_are_run_once_whatever_table_asks(data_root, tmp_path, monkeypatch) -> None:
    systems = ["AE", "DAAD+"]
    reproduce("table3", data_root, systems=systems, steps=3, output=tmp_path, **RUN)
    rows = read(tmp_path / "results.csv")
    assert [(row["system"], row["category"], row["trained_steps"]) for row in rows] == [
        ("AE", "part", "3"),
        ("DAAD+", "part", "3"),
    ]
    for row in rows:
        name = cells.Cell("mvtec", row["system"], "part", 32, 1000, 3, 4, "32-true", "", 0).name
        scores = read(tmp_path / "cells" / name / "scores.csv")
        labels = ["good" not in Path(score["image"]).parts for score in scores]
        for part in ("R", "L", "fused"):
            if row["system"] == "AE" and part == "L":
                assert row["auroc_L"] == scores[0]["L"] == ""
                continue
            expected = roc_auc_score(labels, [float(score[part]) for score in scores])
            assert float(row[f"auroc_{part}"]) == pytest.approx(expected, abs=1e-6)
        assert 0 <= float(row["auroc_pixel"]) <= 1
        assert 0 <= float(row["aupro"]) <= 1
        assert (tmp_path / "cells" / name / "model.ckpt").exists()

    monkeypatch.setattr(Engine, "fit", refuse)
    reproduce("table3", data_root, systems=systems, steps=3, output=tmp_path, **RUN)
    reproduce("table5", data_root, systems=systems, steps=3, output=tmp_path, **RUN)
    assert read(tmp_path / "results.csv") == rows
    text = (tmp_path / "table5.md").read_text()
    assert "AE, no L_adv, R | DAAD, L_adv, L_ali, R | DAAD, L_adv, L_ali, L | DAAD, L_adv, L_ali, fused" in text
    assert float(rows[1]["auroc_L"]) == pytest.approx(float(text.split("| part |")[1].split("|")[2]), abs=1e-3)


def test_a_short_training_in_epochs(data_root, tmp_path) -> None:
    reproduce("table3", data_root, systems=["AE"], epochs=2, output=tmp_path, **RUN)
    assert [row["trained_steps"] for row in results(tmp_path)] == [6]


def test_a_failed_cell_does_not_stop_the_others(data_root, tmp_path, monkeypatch) -> None:
    run = cells.run

    def fail(cell: cells.Cell, *arguments):
        if cell.system == "AE":
            msg = "out of luck"
            raise RuntimeError(msg)
        return run(cell, *arguments)

    monkeypatch.setattr(cells, "run", fail)
    with pytest.raises(ValueError, match=r"1 of 2 cells failed.*AE.*out of luck"):
        reproduce("table3", data_root, systems=["AE", "DAAD"], steps=2, output=tmp_path, **RUN)
    assert [row["system"] for row in results(tmp_path)] == ["DAAD"]
    (reason,) = tmp_path.glob("cells/*/error.txt")
    assert "out of luck" in reason.read_text()
    assert "| part | failed | " in (tmp_path / "table3.md").read_text()
    monkeypatch.setattr(cells, "run", run)
    reproduce("table3", data_root, systems=["AE", "DAAD"], steps=2, output=tmp_path, **RUN)
    assert [row["system"] for row in results(tmp_path)] == ["AE", "DAAD"]
    assert not reason.exists()


def test_a_failed_cell_starts_anew(data_root, tmp_path, monkeypatch) -> None:
    evaluate = cells.evaluate
    monkeypatch.setattr(cells, "evaluate", refuse)
    with pytest.raises(ValueError, match="nothing is to be trained"):
        reproduce("table3", data_root, systems=["AE"], epochs=2, output=tmp_path, **RUN)
    assert not list(tmp_path.glob("cells/*/resume"))
    monkeypatch.setattr(cells, "evaluate", evaluate)
    reproduce("table3", data_root, systems=["AE"], epochs=2, output=tmp_path, **RUN)
    assert [row["trained_steps"] for row in results(tmp_path)] == [6]


def test_what_another_process_runs_is_waited_for(data_root, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _, sleep=time.sleep: sleep(0.05))
    ran = []
    run = cells.run
    monkeypatch.setattr(cells, "run", lambda cell, *rest: ran.append(cell.system) or run(cell, *rest))
    reproduce("table3", data_root, systems=["AE"], steps=2, output=tmp_path / "other", **RUN)
    name = cells.Cell("mvtec", "AE", "part", 32, 1000, 2, 4, "32-true", "", 0).name
    folder = tmp_path / "mine" / "cells" / name
    folder.mkdir(parents=True)
    lock = FileLock(folder / "lock", thread_local=False)
    lock.acquire()
    arguments = {"systems": ["AE", "DAAD"], "steps": 2, "output": tmp_path / "mine", **RUN}
    thread = threading.Thread(target=reproduce, args=("table3", data_root), kwargs=arguments)
    thread.start()
    while not list((tmp_path / "mine").glob("cells/*DAAD*/result.json")):
        assert thread.is_alive()
        time.sleep(0.05)
    (folder / "result.json").write_text((tmp_path / "other" / "cells" / name / "result.json").read_text())
    lock.release()
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert ran == ["AE", "DAAD"]  # AE in the other folder only
    assert len(read(tmp_path / "mine" / "results.csv")) == 2


def test_a_killed_run_goes_on(data_root, tmp_path, monkeypatch) -> None:
    """kill -9 loses at most a twentieth of a training, and no lock stays behind."""
    code = f"""
from anomalib_daad.commands.reproduce import cell
from anomalib_daad.commands.reproduce.command import reproduce
from pathlib import Path
cell.DEFAULTS["mvtec"] = {cells.DEFAULTS["mvtec"]}
data, output = Path({str(data_root)!r}), Path({str(tmp_path)!r})
reproduce("table3", data, systems=["AE"], epochs=60, output=output, **{RUN})
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT) as process:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("cells/*/resume/last.ckpt")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    assert not list(tmp_path.glob("cells/*/result.json"))
    epochs = []
    fit = Engine.fit

    def note(engine: Engine, *arguments, ckpt_path: Path | None = None, **others) -> None:
        assert ckpt_path is not None
        fit(engine, *arguments, ckpt_path=ckpt_path, **others)
        epochs.append(engine.trainer.current_epoch)

    monkeypatch.setattr(Engine, "fit", note)
    reproduce("table3", data_root, systems=["AE"], epochs=60, output=tmp_path, **RUN)
    assert epochs == [60]
    (row,) = results(tmp_path)
    assert row["trained_steps"] == 60 * 3
    assert not list(tmp_path.glob("cells/*/resume"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"table": "table9"}, ["table9", "table2, table3"]),
        ({"systems": ["VAE"]}, ["VAE", "AE+Skip"]),
        ({"categories": ["nut"]}, ["nut", "part"]),
        ({"device": "tpu"}, ["tpu", "cpu"]),
        ({"data": Path("nowhere")}, ["nowhere", "--data"]),
        ({"systems": ["DAAD, r = 16"], "table": "table4"}, ["32x32", "256x256", "division_rates (16, 16)"]),
        ({"systems": ["MNAD"], "table": "table4"}, ["table4", "MNAD"]),
        ({"systems": ["DAAD"], "model": {"rate": 2}}, ["--model", "rate", "division_rates"]),
        ({"systems": ["DAAD"], "model": {"num_items": "many"}}, ["--model", "many"]),
    ],
)
def test_bad_input_is_one_sentence(data_root, tmp_path, monkeypatch, arguments, words) -> None:
    monkeypatch.setattr(Engine, "fit", refuse)
    arguments = {"table": "table3", "data": data_root, "output": tmp_path / "out", **RUN, **arguments}
    with pytest.raises((ValueError, OSError)) as error:
        reproduce(**arguments)
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_is_a_file(data_root, tmp_path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(OSError, match="--output"):
        reproduce("table3", data_root, output=tmp_path / "out", steps=1, **{**RUN, "image_size": 128})


def test_rates_that_do_not_fit_are_left_out_of_the_whole_table(data_root, tmp_path, monkeypatch, capsys) -> None:
    asked = []
    monkeypatch.setattr(command, "_run_all", lambda wanted, *_: asked.extend(wanted) or {})
    reproduce("table4", data_root, output=tmp_path, steps=1, **{**RUN, "image_size": 128})
    assert [cell.system for cell in asked] == ["DAAD, r = 1", "DAAD, r = 2", "DAAD, r = 4", "DAAD"]
    assert "without DAAD, r = 16" in capsys.readouterr().out
    assert "Table 3 alone gives categories" in (tmp_path / "table4.md").read_text()


def test_a_table_has_the_paper_beside_it() -> None:
    """Of two categories Table 3 gives what to compare DAAD with; of r = 4 there is only the mean over all fifteen."""
    rows = [
        {"system": system, "category": category, "auroc_fused": value, "auroc_R": value, "auroc_L": None}
        for system, category, value in [
            ("DAAD", "bottle", 0.9),
            ("DAAD", "bottle", 0.8),
            ("DAAD", "grid", 0.7),
            ("DAAD, r = 4", "bottle", 0.6),
        ]
    ]
    chosen = tables.entries("table4", "mvtec", ["DAAD, r = 4", "DAAD"])
    lines = tables.to_markdown("table4", chosen, ["bottle", "grid"], rows).splitlines()
    assert lines[0] == "| | r = 4 | r = 8 |"
    assert lines[2] == "| bottle | 0.600 | 0.850 ± 0.071 (0.975) |"
    assert lines[3] == "| grid | not measured | 0.700 (0.975) |"
    assert lines[4:8] == [
        "| **mean** |  | 0.775 |",  # (0.85 + 0.7) / 2
        "| **paper's mean over the same** |  | 0.975 |",
        "| **difference** |  | -0.200 |",
        "| **paper's mean over all its categories** | 0.821 | 0.845 |",
    ]
    of_table_3 = [entry.label for entry in tables.entries("table5", "mvtec", None) if entry.per_category]
    assert of_table_3 == ["AE, no L_adv, R", "MemAE, no L_adv, R", "DAAD, no L_adv, R", "DAAD, L_adv, L_ali, fused"]


def test_the_difference_over_all_digits() -> None:
    rows = [{"system": "DAAD+", "category": digit, "auroc_fused": 0.9 + int(digit) / 100} for digit in paper.MNIST]
    text = tables.to_markdown("table2", tables.entries("table2", "mnist", None), paper.MNIST, rows)
    assert "| **mean** | 0.945 |\n| **paper's mean over the same** | 0.990 |\n| **difference** | -0.045 |\n" in text


def test_pixels_of_all_images_are_judged_together() -> None:
    """Maps beyond 1 in one batch of several, where metrics would squash that batch alone."""
    torch.manual_seed(0)
    masks = torch.zeros(6, 32, 32, dtype=torch.bool)
    masks[:, 8:16, 8:16] = True
    maps = torch.rand(6, 1, 32, 32) * torch.tensor([0.2, 0.2, 0.2, 3.0, 3.0, 3.0])[:, None, None, None]
    maps += masks[:, None] * 0.1
    measures = measure_pixels(maps, masks)
    assert measures["auroc_pixel"] == pytest.approx(roc_auc_score(masks.flatten(), maps.flatten()), abs=1e-6)
    assert measure_pixels(0.01 * maps, masks) == pytest.approx(measures, abs=1e-3)


def test_arguments_of_the_model_make_another_cell(data_root, tmp_path) -> None:
    reproduce("table3", data_root, systems=["AE"], steps=2, output=tmp_path, **RUN)
    reproduce("table3", data_root, systems=["AE"], steps=2, output=tmp_path, model={"base_channels": 2}, **RUN)
    assert {row["arguments"] for row in results(tmp_path)} == {"", '{"base_channels": 2}'}
    sizes = {path.stat().st_size for path in tmp_path.glob("cells/*/model.ckpt")}
    assert len(sizes) == 2  # fewer channels, a smaller file


@pytest.mark.parametrize("brackets", [False, True])
def test_lists_on_the_command_line(brackets) -> None:
    parser = CommandParser()
    parser.add_function_arguments(reproduce)
    lists = {"categories": ["3", "4"], "systems": ["DAAD, r = 2", "AE"], "seeds": ["0", "1"]}
    if brackets:
        lists = {"categories": ["[3, 4]"], "systems": ['["DAAD, r = 2", AE]'], "seeds": ["[0, 1]"]}
    options = [word for name, values in lists.items() for word in (f"--{name}", *values)]
    given = ["table2", *options, "--data", "mnist.npz", "--steps", "3"]
    parsed = parser.parse_args(plain_options(given, reproduce))
    assert command._categories("mnist", Path(), parsed.categories) == ["3", "4"]
    assert parsed.systems == ["DAAD, r = 2", "AE"]
    assert parsed.seeds == [0, 1]
    assert (parsed.table, parsed.steps) == ("table2", 3)
