# SPDX-License-Identifier: Apache-2.0

"""The systems of the tables, as arguments of the models.

Example:
    >>> SYSTEMS["MemAE"].arguments
    {'connections': 'bottleneck_memory', 'division_rates': None, 'adversarial': False}
    >>> adversarial("AE", alignment=False)
    'AE, L_adv'
"""

from typing import Any, NamedTuple


class System(NamedTuple):
    """A system of a table.

    Attributes:
        arguments (dict[str, Any]): Arguments of the model, beside image size and seed.
        model (str): Name in ``MODELS``.
    """

    arguments: dict[str, Any]
    model: str = "Daad"


_PIXELS: dict[str, Any] = {"connections": "bottleneck_memory", "division_rates": None}
_GENERATORS: dict[str, dict[str, Any]] = {
    "AE": {"connections": "none"},
    "AE+Skip": {"connections": "skip"},
    "MemAE": _PIXELS,
    "MemAE+Skip": {"division_rates": None},
    "DAAD": {},
    "DAAD, eq. 1": {"addressing": "paper"},
    **{f"DAAD, r = {rate}": {"division_rates": (rate, rate, 1)} for rate in (1, 2, 4, 16)},
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
        adversarial(name, alignment): System({**_GENERATORS[name], "lambdas": (50.0, 0.5, 0.5 if alignment else 0.0)})
        for name in ("AE", "MemAE", "DAAD")
        for alignment in (False, True)
    },
    "MemAE, its code": System({}, "MemAe"),
    "MemAE, its code, 2/N": System({"shrinkage": 2.0}, "MemAe"),
    "MNAD": System({"learning_rate": 2e-4}, "Mnad"),
    "MNAD, no memory": System({"num_items": 0, "learning_rate": 2e-4}, "Mnad"),
    "MNAD, uniform use": System({"uniform_use": 0.1, "learning_rate": 2e-4}, "Mnad"),
}
