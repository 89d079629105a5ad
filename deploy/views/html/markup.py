"""HTML and SVG elements as text that is escaped unless it was built here.

Everything that comes from a file of the user (labels, layer names, paths) passes through `element` as plain ``str`` and is
escaped; only `Markup`, which only this module makes, is inserted as it is.
"""

from collections.abc import Iterable
from html import escape
from typing import Any

_VOID = frozenset({"meta", "br", "line", "rect", "path", "circle", "polyline", "polygon", "use"})


class Markup(str):
    """Text that is already HTML."""

    __slots__ = ()


def plain(value: object) -> Markup:
    """Escaped text, also of what cannot be printed: control characters become the replacement character."""
    if isinstance(value, Markup):
        return value
    shown = "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in str(value))
    return Markup(escape(shown, quote=True))


def join(parts: Iterable[object], between: str = "") -> Markup:
    """Several pieces, each escaped unless it is `Markup`."""
    return Markup(between.join(plain(p) for p in parts))


def element(tag: str, *children: object, **attributes: Any) -> Markup:
    """``<tag attribute="...">children</tag>``.

    Parameters
    ----------
    tag : str
        A constant of ours, never user text.
    *children : object
        Escaped unless `Markup`; None is left out.
    **attributes
        ``class_`` for class, ``_`` becomes ``-``; None is left out; floats are shortened to two decimals (pixels).
    """
    shown = "".join(f' {_name(k)}="{plain(_short(v))}"' for k, v in attributes.items() if v is not None)
    if tag in _VOID and not children:
        return Markup(f"<{tag}{shown}/>")
    return Markup(f"<{tag}{shown}>{join(c for c in children if c is not None)}</{tag}>")


def _name(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _short(value: object) -> object:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
