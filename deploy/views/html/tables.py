"""Tables that scroll by themselves where the window is too narrow."""

from collections.abc import Iterable, Sequence

from taaf.deploy.views.html.markup import Markup, element


def table(caption: object, heads: Sequence[str], rows: Iterable[Sequence[object]], wide: set[int] | None = None) -> Markup:
    """A table that scrolls by itself; columns in ``wide`` may break lines, columns of words are aligned left."""
    rows = [tuple(row) for row in rows]
    wide = wide or set()
    label = "table" if isinstance(caption, Markup) else str(caption)[:80]

    words = {k for k in range(len(heads)) if rows and not any(_begins_as_number(row[k]) for row in rows)}

    def look(k: int) -> str | None:
        return "wide" if k in wide else "words" if k in words else None

    def cell(k: int, value: object) -> Markup:
        if k == 0:
            return element("th", value, scope="row")
        return element("td", value, class_=look(k))

    header = element("tr", *(element("th", h, scope="col", class_=look(k)) for k, h in enumerate(heads)))
    body = [element("tr", *(cell(k, v) for k, v in enumerate(row))) for row in rows]
    content = element("table", element("caption", caption), element("thead", header), element("tbody", *body))
    return element("div", content, class_="scroll", tabindex="0", role="region", aria_label=label)


def _begins_as_number(value: object) -> bool:
    shown = str(value)
    return shown.startswith("<data") or shown[:1] in set("0123456789-–+=")
