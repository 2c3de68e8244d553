# SPDX-License-Identifier: Apache-2.0

"""What all pictures share: colours that colour-blind people tell apart (Okabe and Ito), sizes, and their file."""

from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .embedded_picture import embed_png

GOOD, DEFECTIVE = "#0072B2", "#D55E00"
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
WIDTH = 5.6  # inches: as wide as text of STYLE's size can be on a phone that shows the picture whole
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 11,
    "savefig.dpi": 180,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


class Picture(NamedTuple):
    """A picture on the page.

    Attributes:
        name (str): Name of its file, without the suffix.
        heading (str): Heading on the page.
        caption (str): What is to be seen.
        alt (str): The same for who cannot see it.
        figure (Figure): The picture.
    """

    name: str
    heading: str
    caption: str
    alt: str
    figure: Figure

    def save(self, folder: Path) -> Path:
        """Save the picture as PNG.

        Args:
            folder (Path): Folder, which exists.

        Returns:
            Path: The file.
        """
        path = folder / f"{self.name}.png"
        self.figure.savefig(path)
        return path


class Omission(NamedTuple):
    """A picture that could not be drawn.

    Attributes:
        heading (str): Heading on the page.
        reason (str): Why it was left out, in a sentence.
    """

    heading: str
    reason: str


class Shown(NamedTuple):
    """A picture as part of a page.

    Attributes:
        heading (str): Heading.
        caption (str): What is to be seen, or why there is none.
        alt (str): The same for who cannot see it.
        address (str): Address that holds it; empty where there is none.
    """

    heading: str
    caption: str
    alt: str = ""
    address: str = ""


def show(picture: Picture | Omission, folder: Path) -> Shown:
    """Save a picture, and make it part of a page.

    Args:
        picture (Picture | Omission): Picture, or one left out.
        folder (Path): Folder, which exists.

    Returns:
        Shown: What the page shows.
    """
    if isinstance(picture, Omission):
        return Shown(picture.heading, picture.reason)
    return Shown(picture.heading, picture.caption, picture.alt, embed_png(picture.save(folder)))


def panels(count: int, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """Make a figure of as many panels as are needed.

    Args:
        count (int): Number of panels.
        columns (int): Panels in a row.
        height (float): Height of a row in inches.

    Returns:
        tuple[Figure, list[Axes]]: The figure; the panels, ``count`` of them.
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(WIDTH, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def bare(axes: Axes) -> None:
    """Show an image alone: no ticks, no frame.

    Args:
        axes (Axes): Panel with an image.
    """
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
