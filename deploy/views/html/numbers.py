"""Numbers in the page: what is shown, and the full value behind it for whoever reads the page by program."""

import json

from taaf.deploy.views.html.markup import Markup, element

_ENERGY = ((1e9, "J"), (1e6, "mJ"), (1e3, "µJ"), (1.0, "nJ"), (0.0, "pJ"))


def number(value: float, path: str, text: str | None = None, per: str | None = None) -> Markup:
    """``<data value=... data-path=...>``.

    Parameters
    ----------
    value : float
        As shown, unrounded.
    path : str
        Where it stands in the JSON report, ``layers.0.spikes_out``.
    per : str or None
        Path of what the JSON value was divided by.
    """
    shown = text if text is not None else grouped(value)
    return element("data", shown, value=json.dumps(value), data_path=path, data_per=per)


def grouped(value: float, digits: int = 0) -> str:
    """1,234,567 or 12.3: as many decimals as a small number needs."""
    if isinstance(value, float) and 0 < abs(value) < 10 and not digits:
        return f"{value:.3g}"
    return f"{value:,.{digits}f}"


def percent(fraction: float) -> str:
    """0.0723 as ``7.23 %``."""
    if fraction >= 10:
        return f"{100 * fraction:,.0f} %"
    return f"{100 * fraction:.3g} %"


def energy(nanojoule: float) -> str:
    """With the unit that leaves one to three digits in front of the point."""
    for size, unit in _ENERGY:
        if abs(nanojoule) >= size:
            return f"{nanojoule / (size or 1e-3):.4g} {unit}"
    raise AssertionError


def engineering(value: float) -> str:
    """12,345,678 as ``12.35 M``."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"
