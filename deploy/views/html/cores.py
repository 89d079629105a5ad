"""The core map: which core of the mesh holds which layer, what limits it, and what the placement costs."""

from collections.abc import Sequence
from typing import Any

from taaf.deploy.views.html.energy import ESTIMATED
from taaf.deploy.views.html.figures import COLOURS, figure, text
from taaf.deploy.views.html.markup import Markup, element, join
from taaf.deploy.views.html.network import shape
from taaf.deploy.views.html.numbers import energy, engineering, grouped, percent
from taaf.deploy.views.html.tables import table

WIDTH, LARGEST, SMALLEST, LABELLED = 860.0, 26.0, 3.0, 15.0  # pixels of the picture, of a core, and of one with a number


def core_part(maps: Sequence[dict[str, Any]]) -> list[Markup]:
    """Both chips."""
    parts: list[Markup] = []
    for m in maps:
        parts.append(element("h3", m.get("title", m["chip"])))
        if "error" in m:
            parts.append(element("p", f"Cannot be mapped: {m['error']}"))
            continue
        parts.append(element("p", _verdict(m)))
        if m["violations"]:
            found = [f"{v['layer']}: {v['limit']} {v['found']:,}, allowed {v['allowed']:,}" for v in m["violations"]]
            parts.append(element("ul", *(element("li", x) for x in found)))
        parts.append(_figure(m) if m["cores"] else element("p", "Too many cores to draw one by one."))
        parts.append(_layers(m))
        parts += [_cost(c) for c in m["costs"]]
        parts.append(_constants(m))
    return parts


def _verdict(m: dict[str, Any]) -> str:
    used = ", ".join(f"{name} {percent(share)}" for name, share in m["utilisation"].items())
    verdict = "Every limit is kept" if m["fits"] else "Does not fit; what follows is the placement without these limits"
    told = f"{verdict}: {m['n_cores']:,} cores on {m['n_chips']:,} chip{'s' if m['n_chips'] > 1 else ''}. Mean use: {used}."
    if (t := m.get("travel")) and t["snake"]["hops"]:
        share = t["placed"]["cost"] / t["snake"]["cost"]
        told += (
            f" Placed by counted messages: hops cost {percent(share)} of those in order of the layers, the longest way takes "
            f"{t['placed']['longest']} hops instead of {t['snake']['longest']}."
        )
    return told


def _figure(m: dict[str, Any]) -> Markup:
    """Routers of all chips on one plane; the cores of a router side by side in its cell."""
    mesh = m["mesh"]
    across = 2 if mesh["cores_per_tile"] > 1 else 1
    columns = -(-(max(c[2] for c in m["cores"]) + 1) // mesh["width"]) * mesh["width"]
    rows = -(-(max(c[3] for c in m["cores"]) + 1) // mesh["height"]) * mesh["height"]
    size = max(SMALLEST, min(LARGEST, WIDTH / (columns * across)))
    down = -(-mesh["cores_per_tile"] // across)
    wide, high, left, top = size * across, size * down, 10.0, 24.0
    parts = []
    for layer, _, x, y, slot, neurons, share in m["cores"]:
        at = (left + x * wide + (slot % across) * size, top + y * high + (slot // across) * size)
        name = m["layers"][layer]["layer"]
        box = {"x": at[0] + 0.5, "y": at[1] + 0.5, "width": size - 1, "height": size - 1}
        told = element("title", f"{name}: {neurons:,} neurons, fullest limit {percent(share)}")
        parts.append(element("rect", told, class_=f"c{layer % COLOURS}", **box))
        if size >= LABELLED:
            parts.append(text(at[0] + size / 2, at[1] + size / 2 + 4, layer + 1, f"core t{layer % COLOURS}", "middle"))
    for i in range(columns // mesh["width"]):
        for k in range(rows // mesh["height"]):
            box = {"x": left + i * mesh["width"] * wide, "y": top + k * mesh["height"] * high}
            size_of = {"width": mesh["width"] * wide, "height": mesh["height"] * high}
            parts.append(element("rect", class_="chip", **box, **size_of))
    parts.append(
        text(left, 14, f"{mesh['width']} × {mesh['height']} routers per chip, {mesh['cores_per_tile']} cores each", "tick")
    )
    described = "; ".join(f"{i + 1} {row['layer']}: {row['n_cores']} cores" for i, row in enumerate(m["layers"]))
    picture = (max(left * 2 + columns * wide, 330.0), top + rows * high + 8)
    note = "Outlines are chips, cells are cores; colours repeat, " + (
        "numbers are those of the table." if size >= LABELLED else "point at a core for its layer."
    )
    return figure(f"fig-cores-{m['chip']}", f"Core map, {m['title']}", described, picture, join(parts), note)


def _layers(m: dict[str, Any]) -> Markup:
    limits = list(m["layers"][0]["peak_utilisation"])
    heads = ("", "layer", "neurons", "cores", "tile C×H×W", "bound by", *limits)
    rows: list[tuple[object, ...]] = []
    for i, row in enumerate(m["layers"]):
        bound = row["binding"] if row["n_cores"] > 1 else "–"
        shares = [percent(row["peak_utilisation"][x]) for x in limits]
        key = element("span", i + 1, class_=f"key k{i % COLOURS}")
        rows.append((key, row["layer"], grouped(row["n_neurons"]), grouped(row["n_cores"]), shape(row["tile"]), bound, *shares))
    return table(f"Layers on {m['title']}; tile: neurons of a core; shares: of the fullest core", heads, rows)


def _cost(c: dict[str, Any]) -> Markup:
    rows = [(x["name"], engineering(x["count"]), f"{x['pj']:g} pJ", energy(x["nj"])) for x in c["components"] if x["count"]]
    rows.append(("sum", "", "", energy(c["energy_nj"])))
    critical = c["critical"]
    told = (
        f"Time: {c['mean_step_ns'] / 1000:.4g} µs per step, {c['latency_ns'] / 1e6:.4g} ms for {c['latency_steps']} steps (window and "
        f"pipeline), with the mean load of a step. {critical['arithmetic']}. Not included: {c['excludes']}. {c['source']}."
    )
    caption = join([ESTIMATED, f"{c['title']}, per window, placed: counted operations × published constants"])
    return join([table(caption, ("component", "operations", "each", "energy"), rows), element("p", told, class_="small")])


def _constants(m: dict[str, Any]) -> Markup:
    rows = [(c["name"], c["value"], c["kind"], c["source"]) for c in m["constants"]]
    limits = table(f"Limits of {m['title']}: {m['source']}", ("limit", "value", "kind", "source"), rows, wide={1, 3})
    anchors = [element("p", f"Cited, {a['kind']}: {a['text']} [{a['source']}]", class_="small") for a in m["anchors"]]
    return element("details", element("summary", "Limits and their sources"), limits, *anchors)
