# SPDX-License-Identifier: Apache-2.0

"""The systems of the tables, as arguments of ``Daad`` and ``Mnad``.

Example:
    >>> SYSTEMS["MemAE"].arguments
    {'connections': 'bottleneck_memory', 'division_rates': None, 'adversarial': False}
    >>> adversarial("AE", alignment=False)
    'AE, L_adv'
"""

from typing import Any, Literal, NamedTuple


class System(NamedTuple):
    """A system of a table.

    Attributes:
        arguments (dict[str, Any]): Arguments of the model, beside image size and seed.
        model (str): ``"Daad"`` or ``"Mnad"``.
    """

    arguments: dict[str, Any]
    model: Literal["Daad", "Mnad"] = "Daad"


_PIXELS: dict[str, Any] = {"connections": "bottleneck_memory", "division_rates": None}
_GENERATORS: dict[str, dict[str, Any]] = {
    "AE": {"connections": "none"},
    "AE+Skip": {"connections": "skip"},
    "MemAE": _PIXELS,
    "MemAE+Skip": {"division_rates": None},
    "DAAD": {},
    **{f"DAAD, r = {rate}": {"division_rates": (rate, rate, 1)} for rate in (1, 2, 4, 16)},
}
# configs/daad_restoration_cpu.yaml, but for its size and shifts, and what is left of it without each of its parts.
_RESTORATION: dict[str, Any] = {
    "division_rates": (4, 4, 1),
    "adversarial": False,
    "restoration": True,
    "score": "maxima",
    "comparison_channels": 16,
    "standardize": True,
    "base_channels": 32,
    "learning_rate": 2e-3,
    "optimizer": "muon",
    "gamma": 0.5,
    "map_sigma": 0.75,
    "placement_radius": 2,
    "standardize_maps": True,
    "error_map": True,
    "flips": False,
}
_WITHOUT: dict[str, dict[str, Any]] = {
    "corruptions and comparison": {"restoration": False, "comparison_channels": 0},
    "comparison": {"comparison_channels": 0},
    "structure": {"score": "maximum_error"},
    "equal light": {"standardize": False},
    "memory": {"connections": "skip"},
    "blocks": {"division_rates": None},
    "Muon": {"optimizer": "adam"},
    "placement": {"placement_radius": 0},
    "standardised maps": {"standardize_maps": False, "error_map": False, "score": "maximum_structure"},
    "several maxima": {"score": "maximum_structure"},
    "error map": {"error_map": False},
}


def adversarial(generator: str, alignment: bool) -> str:
    """Name of a generator trained with L_adv, and with L_ali or without.

    Args:
        generator (str): ``"AE"``, ``"MemAE"`` or ``"DAAD"``.
        alignment (bool): With L_ali.

    Returns:
        str: Name in ``SYSTEMS``.
    """
    if generator == "DAAD" and alignment:
        return "DAAD+"
    return f"{generator}, L_adv, L_ali" if alignment else f"{generator}, L_adv"


SYSTEMS: dict[str, System] = {
    **{name: System({**arguments, "adversarial": False}) for name, arguments in _GENERATORS.items()},
    **{
        adversarial(name, alignment): System({**_GENERATORS[name], **({} if alignment else {"lambda_ali": 0.0})})
        for name in ("AE", "MemAE", "DAAD")
        for alignment in (False, True)
    },
    "MemAE, its paper": System(
        {
            **_PIXELS,
            "renormalize": True,
            "memory_init": "uniform",
            "memory_losses": {"entropy": 2e-4},
            "distance": "mse",
            "lambda_rec": 1.0,
            "adversarial": False,
        }
    ),
    "Restoration": System(_RESTORATION),
    **{f"Restoration without {part}": System({**_RESTORATION, **changes}) for part, changes in _WITHOUT.items()},
    "MNAD": System({"learning_rate": 2e-4}, "Mnad"),
    "MNAD, no memory": System({"num_items": 0, "learning_rate": 2e-4}, "Mnad"),
}
