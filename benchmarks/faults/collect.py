# SPDX-License-Identifier: Apache-2.0

"""One table of all faults: ``python benchmarks/faults/collect.py FOLDER``, into faults.csv beside this script.

``FOLDER`` holds what the other scripts wrote, each as ``NAME.csv``. A row for each fault, runtime or way in, and
outcome: how many cases were tried, and the sentence of the first.
"""

import csv
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
Row = tuple[str, str, str, str, int, str]


def read(name: str) -> list[dict[str, str]]:
    """Read a table of the folder."""
    with (Path(sys.argv[1]) / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def rows() -> Iterator[Row]:
    """Rows of all tables."""
    counts = Counter((row["property"], row["runtime"], row["outcome"]) for row in read("properties"))
    for (name, runtime, outcome), count in counts.items():
        yield "properties, a case is a system", name, runtime, outcome, count, ""
    for row in read("images"):
        yield "images", row["fault"], row["path"], row["outcome"], int(row["cases"]), row["sentence of the first"]
    for row in read("data"):
        yield "data", row["fault"], row["layout"], row["outcome"], int(row["cases"]), row["sentence"]
    for row in read("training"):
        outcome = "stopped" if row["exit status"] != "0" else "works"
        outcome += f", {row['left']}" if row["left"] else ""
        yield "training", row["fault"], row["command"], outcome, int(row["cases"]), row["sentence"]
    for row in read("kill"):
        differences = {row["largest_difference"], row["largest_metric_difference"]}
        outcome = "equal to an uninterrupted run" if {float(it) for it in differences} == {0.0} else "differs"
        yield "training", "killed and resumed, a case is a kill", row["system"], outcome, int(row["kills"]), ""
    for row in read("fuzz"):
        outcome = f"{row['outcome']}, {row['error']}" if row["outcome"] == "another error" else row["outcome"]
        sentence = row["sentence of the first"]
        yield "files", f"{row['file']}: {row['damage']}", row["read by"], outcome, int(row["cases"]), sentence
    for row in read("load"):
        outcome = f"largest difference {row['largest_difference']}, {row['warm_mb']} to {row['end_mb']} MB"
        yield "load", f"{row['at_once']} at once, {row['sizes']} sizes", row["runtime"], outcome, int(row["images"]), ""


def main() -> None:
    """Write the table."""
    with (HERE / "faults.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["part", "fault", "runtime or way in", "outcome", "cases", "sentence of the first"])
        writer.writerows(rows())


if __name__ == "__main__":
    main()
