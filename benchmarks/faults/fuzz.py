# SPDX-License-Identifier: Apache-2.0

"""Damaged and forged model files: ``python benchmarks/faults/fuzz.py OUTPUT.csv``.

Each file is read in a process of its own, which may take 20 seconds and 4 GB more than before. A file that makes the
proof appear ran code; one that kills its process crashed it.
"""

import argparse
import csv
import faulthandler
import json
import logging
import multiprocessing
import random
import resource
import struct
import sys
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine

from anomalib_daad import Daad, load_safetensors, save_safetensors
from anomalib_daad.error_message import first_line

sys.path.extend(sorted({str(path.parent) for path in (Path(__file__).parents[2] / "tests").rglob("*.py")}))
from conftest import make_model, mutated
from kill import draw
from test_trust import resign, rewrite

SECONDS = 20
MEMORY = 4 * 2**30


def entries(path: Path) -> dict[str, bytes]:
    """Contents of a checkpoint's archive."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(path: Path, contents: dict[str, bytes]) -> None:
    """Write an archive with right checksums, with contents aligned in no way."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


def damage_bytes(path: Path, chance: random.Random) -> None:
    """Flip, cut, double or overwrite bytes."""
    path.write_bytes(mutated(path.read_bytes(), chance))


def flip(path: Path, chance: random.Random) -> None:
    """Flip one bit."""
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def cut(path: Path, chance: random.Random) -> None:
    """Cut a file off."""
    path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size)])


def damage_pickle(path: Path, chance: random.Random) -> None:
    """Damage the pickle in an archive, whose checksums are right again."""
    contents = entries(path)
    name = next(name for name in contents if name.endswith("data.pkl"))
    contents[name] = mutated(contents[name], chance)
    pack(path, contents)


def damage_archive(path: Path, chance: random.Random) -> None:
    """Drop, empty, cut, swap or rename entries of an archive."""
    contents = entries(path)
    for _ in range(chance.randint(1, 3)):
        first, second = chance.sample(sorted(contents), 2)
        kind = chance.randrange(5)
        if kind == 0:
            del contents[first]
        elif kind == 1:
            contents[first] = b""
        elif kind == 2:
            contents[first] = contents[first][: len(contents[first]) // 2]
        elif kind == 3:
            contents[first], contents[second] = contents[second], contents[first]
        else:
            contents[chance.choice(["../evil", "a" * 300, "archive/data/\0", "/tmp/evil"])] = contents.pop(first)
    pack(path, contents)


def forge_pickle(path: Path, chance: random.Random, proof: Path) -> None:
    """Put a call somewhere in the pickle of an archive whose checksums are right."""
    contents = entries(path)
    name = next(name for name in contents if name.endswith("data.pkl"))
    command = f"open({str(proof)!r}, 'w')"
    inner = b"cbuiltins\neval\n(V" + command.encode() + b"\ntR."
    calls = [
        b"cos\nsystem\n(Vtouch " + str(proof).encode() + b"\ntR",
        b"cposix\nsystem\n(Vtouch " + str(proof).encode() + b"\ntR",
        b"cbuiltins\neval\n(V" + command.encode() + b"\ntR",
        b"cbuiltins\nexec\n(V" + command.encode() + b"\ntR",
        b"ipathlib\nPath.touch\n",
        b"csubprocess\ngetoutput\n(Vtouch " + str(proof).encode() + b"\ntR",
        b"cpickle\nloads\n(C" + bytes([len(inner)]) + inner + b"tR" if len(inner) < 256 else b"cos\nabort\n)R",
        b"ctorch.storage\n_load_from_bytes\n(B" + struct.pack("<I", len(inner)) + inner + b"tR",
        b"ctorch.hub\nload\n(V/tmp\nVevil\ntR",
        b"ctorch\nload\n(V" + str(path).encode() + b"\ntR",
        b"cbuiltins\ngetattr\n(cos\nsystem\nV__call__\ntR",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR",
        b"canomalib_daad.models.daad.lightning_model\nDaad\n)R",
        b"cshutil\nrmtree\n(V/nowhere\ntR",
    ]
    call, content = chance.choice(calls), contents[name]
    place = chance.choice([2, len(content) - 1, chance.randrange(2, len(content))])
    rest = b"0" if chance.random() < 0.7 else b""  # POP leaves the stack as it was
    contents[name] = content[:place] + call + rest + content[place:]
    pack(path, contents)


def damage_values(path: Path, chance: random.Random) -> None:
    """Give a checkpoint other values than a training would write."""
    checkpoint = torch.load(path, weights_only=True)
    for _ in range(chance.randint(1, 3)):
        where = chance.choice([checkpoint, checkpoint["hyper_parameters"], checkpoint["state_dict"]])
        key = chance.choice(sorted(where))
        odd = [None, -1, "x", [], {}, 10**12, float("nan"), torch.zeros(0), torch.zeros(3, 3, dtype=torch.int64)]
        if chance.random() < 0.3 and where is not checkpoint:
            del where[key]
        elif key not in {"hyper_parameters", "state_dict"}:
            where[key] = chance.choice(odd)
        elif chance.random() < 0.2:
            checkpoint[key] = chance.choice(odd)
            break
    torch.save(checkpoint, path)


def damage_header(path: Path, chance: random.Random) -> None:
    """Change the JSON header of a safetensors file: offsets, shapes, types, names, length."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, rest = json.loads(content[8 : 8 + length]), content[8 + length :]
    key = chance.choice([name for name in header if name != "__metadata__"])
    kind = chance.randrange(8)
    if kind == 0:
        header[key]["data_offsets"] = [chance.choice([0, -1, 2**63, 10**9]), chance.choice([0, 4, 2**64 - 1])]
    elif kind == 1:
        header[key]["shape"] = chance.choice([[], [-1], [2**62, 4], [0], "x", [10**9] * 3])
    elif kind == 2:
        header[key]["dtype"] = chance.choice(["F64", "I8", "X", None, "BOOL", 3])
    elif kind == 3:
        del header[key]
    elif kind == 4:
        header["../" * 5 + key] = header.pop(key)
    elif kind == 5:
        header["__metadata__"] = chance.choice([{}, [], None, {"format": 1}, {"a": {"b": "c"}}, "x"])
    elif kind == 6:
        header["__metadata__"][chance.choice(sorted(header["__metadata__"]))] = chance.choice(
            ["", "{", "null", "9" * 9]
        )
    text = json.dumps(header).encode()
    size = chance.choice([0, 1, 2**40, 2**64 - 1, len(text) - 1, 100 * 2**20]) if kind == 7 else len(text)
    path.write_bytes(struct.pack("<Q", size) + text + rest)


def forge_arguments(path: Path, chance: random.Random) -> None:
    """Other arguments with a right digest."""
    key = chance.choice(["image_size", "division_rates", "num_items", "base_channels", "lambdas", "gamma", "seed"])
    odd = [None, -1, 0, "x", [], {}, 10**12, [10**6, 10**6], [0, 0], [2, 2, 2, 2], 1e300, [[[]]], True]
    arguments = {"image_size": [32, 32], "division_rates": [2, 2, 1], "num_items": 10, "base_channels": 4, "seed": 0}
    text = json.dumps({**arguments, key: chance.choice(odd)})
    rewrite(path, **{chance.choice(["arguments", "arguments", "post_processor"]): text})
    resign(path)


def child(read: Callable[[], dict[str, torch.Tensor]], right: dict[str, torch.Tensor], pipe: Any) -> None:
    """Read a file and tell what happened."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    faulthandler.dump_traceback_later(SECONDS - 2)
    try:
        state = read()
        same = state.keys() == right.keys() and all(torch.equal(state[key], right[key]) for key in right)
        pipe.send(("the same weights" if same else "other weights", "", ""))
    except Exception as error:
        outcome = "refused" if isinstance(error, ValueError) else "another error"
        pipe.send((outcome, type(error).__name__, first_line(error)))


def attempt(read: Callable[[], Any], right: dict[str, torch.Tensor], proof: Path) -> tuple[str, str, str]:
    """Outcome, kind of error and sentence of one file; what hung is tried again, for a fork may hang by itself."""
    said = once(read, right, proof)
    if said[0] != "hung":
        return said
    again = once(read, right, proof)
    return again if again[0] != "hung" else said


def once(read: Callable[[], Any], right: dict[str, torch.Tensor], proof: Path) -> tuple[str, str, str]:
    """Read a file in a process of its own."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=child, args=(read, right, theirs))
    process.start()
    theirs.close()
    try:
        said = ours.recv() if ours.poll(SECONDS) else ("hung", "", "")
    except EOFError:
        process.join()
        said = (f"crashed with {process.exitcode}", "", "")
    process.kill()
    process.join()
    if proof.exists():
        proof.unlink()
        return "RAN CODE", "", ""
    return said


def main() -> None:
    """Write a row for each way to damage a file and what happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--count", type=int, default=100, help="files of each kind of damage")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows: Counter[tuple[str, ...]] = Counter()
    sentences: dict[tuple[str, ...], str] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        draw(folder / "data")
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "devices": 1}

        def make_engine() -> Engine:
            return Engine(default_root_dir=folder / "results", max_epochs=1, **quiet)

        model, engine = make_model(visualizer=False), make_engine()
        engine.fit(model, datamodule=MVTecAD(folder / "data", "part", train_batch_size=4, num_workers=0))
        right = {key: value.clone() for key, value in model.state_dict().items()}
        checkpoint = Path(engine.trainer.checkpoint_callback.best_model_path).read_bytes()
        safetensors = save_safetensors(model, folder / "right.safetensors").read_bytes()
        proof, image = folder / "proof", folder / "data/part/test/good/000.png"

        def by_engine(path: Path) -> dict[str, torch.Tensor]:
            other = make_model(visualizer=False)
            make_engine().predict(other, data_path=image, ckpt_path=path)
            return other.state_dict()

        files: list[tuple[str, bytes, list[Callable], dict[str, Callable[[Path], Any]]]] = [
            (
                "model.ckpt",
                checkpoint,
                [
                    damage_bytes,
                    flip,
                    cut,
                    damage_pickle,
                    damage_archive,
                    damage_values,
                    partial(forge_pickle, proof=proof),
                ],
                {
                    "load_from_checkpoint": lambda path: Daad.load_from_checkpoint(path).state_dict(),
                    "Engine.predict": by_engine,
                },
            ),
            (
                "model.safetensors",
                safetensors,
                [damage_bytes, flip, cut, damage_header, forge_arguments],
                {"load_safetensors": lambda path: load_safetensors(path).state_dict()},
            ),
        ]
        for name, content, damages, ways in files:
            for damage in damages:
                kind = getattr(damage, "func", damage).__name__
                for way, read in ways.items():
                    chance = random.Random(0)
                    for _ in range(arguments.count):
                        path = folder / name
                        path.write_bytes(content)
                        damage(path, chance)
                        outcome, error, sentence = attempt(partial(read, path), right, proof)
                        key = (name, kind, way, outcome, error)
                        rows[key] += 1
                        sentences.setdefault(key, sentence.replace(temporary, "")[:300])
                    print(
                        kind,
                        way,
                        {key[3:]: count for key, count in rows.items() if key[1:3] == (kind, way)},
                        flush=True,
                    )
    with arguments.output.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "damage", "read by", "outcome", "error", "cases", "sentence of the first"])
        writer.writerows([*key, count, sentences[key]] for key, count in rows.items())


if __name__ == "__main__":
    main()
