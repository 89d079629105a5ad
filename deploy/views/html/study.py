"""The energy study in the page: the twin's arithmetic, what was counted, every reading of 18.5, and the sweeps."""

from typing import Any

from taaf.deploy.studies.energy_study import met
from taaf.deploy.views.html.activity import MEASURED
from taaf.deploy.views.html.energy import CITED, ESTIMATED
from taaf.deploy.views.html.figures import Scale, figure, line, linear_scale, log_scale, polyline, text, x_axis, y_axis
from taaf.deploy.views.html.markup import Markup, element, join
from taaf.deploy.views.html.numbers import energy, grouped, number, percent
from taaf.deploy.views.html.tables import table

COMPUTED = element("span", "computed", class_="badge computed")
_MJ = 1e6  # nJ
_ROLES = {"first": "the input", "join": "sums of residual blocks", "binary": "spikes", "extra": "identity shortcuts and relays"}


def study_part(s: dict[str, Any]) -> list[Markup]:
    """All of it, in the order of the argument."""
    return [
        element("h3", "The ANN twin: 49.91 reproduced, and its unit"), _twin(s),
        element("h3", "What was counted here"), _split(s),
        element("h3", f"Readings of {s['cited']['snn']}"), _range_figure(s), _readings(s),
        element("h3", "Sweeps of the paper’s network"), _sweep_figure(s), _sweep_tables(s),
    ]  # fmt: skip


def _twin(s: dict[str, Any]) -> Markup:
    a, c, at = s["ann_twin"], s["cited"], "energy_study.ann_twin"
    rows: list[tuple[object, ...]] = [
        (f"{b}, one pass", number(n, f"{at}.macs_per_pass.{b}", f"{n / 1e9:.4f} G MACs"), "", COMPUTED)
        for b, n in a["macs_per_pass"].items()
    ]
    rows += [
        (
            f"{a['passes']} passes of both, × {a['mac_pj']} pJ", number(a["macs"], f"{at}.macs", f"{a['macs'] / 1e9:.3f} G MACs"),
            number(a["energy_nj"], f"{at}.energy_nj", energy(a["energy_nj"])), ESTIMATED,
        ),
        (
            "and elementwise layers, as profilers count them", f"+ {a['elementwise'] / 1e9:.3f} G",
            number(a["energy_with_elementwise_nj"], f"{at}.energy_with_elementwise_nj", energy(a["energy_with_elementwise_nj"])),
            ESTIMATED,
        ),
        ("printed in the paper", number(a["cited_macs"], f"{at}.cited_macs", f"= {a['cited_macs'] / 1e9:.3f} G MACs"),
         f"{c['ann']} “{c['printed_unit']}”", CITED),
    ]  # fmt: skip
    told = (
        f"The unit must be {c['unit']}: {c['ann']} {c['printed_unit']} would be {a['inferences_if_mj'] / 1e9:.2f} thousand million "
        f"inferences, and {c['snn']} stands beside it in the same unit. Multiply-accumulates are computed from ResNet18’s architecture "
        "(padding included); elementwise: 2 per normalised value, 1 per activation and pooled value. On the chip a strided "
        f"convolution stands where ResNet18 max-pools: {a['conv_pool_macs'] / 1e9:.3f} G."
    )
    return join([table("ANN twin of the paper’s network", ("what", "operations", "energy", "kind"), rows), element("p", told)])


def _split(s: dict[str, Any]) -> Markup:
    x, rows = s["split"], []
    for role, name in _ROLES.items():
        macs, synops = x["macs"].get(role, 0), x["synops"][role]
        at = "energy_study.split"
        rows.append(
            (
                name, number(macs, f"{at}.macs.{role}") if role in x["macs"] else "–",
                number(synops, f"{at}.synops.{role}", grouped(float(round(synops)))),
                percent(synops / macs) if macs and synops else "–",
                "MAC" if role == "first" and x["real_input"] else "MAC in SEW readings" if role == "join" else "AC",
            )
        )  # fmt: skip
    scale = "It is of the paper’s size." if s["is_paper_scale"] else "It is not the paper’s network."
    caption = join([MEASURED, f"{s['network']}, per window. {scale} Mean rate, SynOps per MAC of what reads spikes: ",
                    number(s["rate"], "energy_study.rate", percent(s["rate"]))])  # fmt: skip
    parts = [
        (f"{b}.{p['name']}", _ROLES[p["role"]], grouped(p["macs"]), grouped(float(round(p["synops"] or 0))))
        for b, ps in x["parts"].items()
        for p in ps
    ]
    listed = table("Per group of synapses", ("synapses", "read", "MACs per pass", "SynOps per window"), parts)
    return join([
        table(caption, ("synapses that read", "MACs of the twin", "effective SynOps", "rate", "charged as"), rows),
        element("details", element("summary", "Per group of synapses"), listed),
    ])  # fmt: skip


def _readings(s: dict[str, Any]) -> Markup:
    rows = []
    for i, r in enumerate(s["readings"]):
        p, at = r["paper_network"], f"energy_study.readings.{i}"
        rows.append(
            element(
                "tr",
                element("th", r["title"], " ← closest" if r["key"] == s["closest"] else "", scope="row", class_="name"),
                element(
                    "td", number(r["measured"]["energy_nj"], f"{at}.measured.energy_nj", energy(r["measured"]["energy_nj"]))
                ),
                element("td", number(p["energy_nj"], f"{at}.paper_network.energy_nj", energy(p["energy_nj"]))),
                element("td", f"{p['floor_nj'] / _MJ:.3g} – {p['ceiling_nj'] / _MJ:.3g} mJ"),
                element("td", met(p), class_="wide"),
                class_="pick" if r["key"] == s["closest"] else None,
            )
        )
    heads = ("reading", "this network", "paper’s net, this rate", "rates 0 – 1")
    caption = join([ESTIMATED, "counted spikes × published constants; the paper’s network: its MACs × the rate measured here"])
    last = element("th", f"{s['cited']['snn']} {s['cited']['unit']} at rate", scope="col", class_="wide")
    header = element("tr", *(element("th", h, scope="col") for h in heads), last)
    content = element("table", element("caption", caption), element("thead", header), element("tbody", *rows))
    charged = element(
        "dl", *(x for r in s["readings"] for x in (element("dt", r["title"]), element("dd", r["says"], ". ", r["source"])))
    )
    return join([
        element("div", content, class_="scroll", tabindex="0", role="region", aria_label="Readings"),
        element("details", element("summary", "What each reading charges, and the source of its constants"), charged),
    ])  # fmt: skip


def _range_figure(s: dict[str, Any]) -> Markup:
    """Every reading as the span from rate 0 to 1, with a mark at the measured rate; cited figures as lines."""
    left, row, top = 370.0, 28.0, 34.0
    values = [v / _MJ for r in s["readings"] for v in (r["paper_network"]["energy_nj"], r["paper_network"]["ceiling_nj"])]
    cited = [s["cited"]["snn"], s["cited"]["ann"]]
    scale = log_scale([*values, *cited], left, left + 430)
    bottom = top + row * len(s["readings"])
    parts = [x_axis(scale, bottom, top - 6, "mJ per inference of the paper’s network (log scale)", lambda v: f"{v:g}")]
    for i, r in enumerate(s["readings"]):
        p, y = r["paper_network"], top + i * row + 4
        low, high, mark = (scale(max(v / _MJ, scale.low)) for v in (p["floor_nj"], p["ceiling_nj"], p["energy_nj"]))
        box = {"x": low, "y": y, "width": high - low, "height": row - 12}
        parts += [
            text(left - 8, y + 13, r["title"], "strong" if r["key"] == s["closest"] else "", "end"),
            element("rect", class_="c4", **box), element("rect", class_="hatch", fill="url(#hatch)", **box),
            element("circle", cx=mark, cy=y + (row - 12) / 2, r=5, class_="c5"),
        ]  # fmt: skip
    for value in cited:
        parts.append(line(scale(value), top - 6, scale(value), bottom, "citedline"))
        parts.append(text(scale(value), top - 12, f"{value} (cited)", "cited", "middle" if value == cited[0] else "start"))
    told = "; ".join(
        f"{r['title']}: {energy(r['paper_network']['floor_nj'])} to {energy(r['paper_network']['ceiling_nj'])}, "
        f"{energy(r['paper_network']['energy_nj'])} at the measured rate"
        for r in s["readings"]
    )
    return figure(
        "fig-readings", f"Readings of {s['cited']['snn']} mJ", told, (left + 500, bottom + 44), join(parts),
        f"Bar: from rate 0 to rate 1. Dot: at the rate measured here, {percent(s['rate'])}. Bold: closest to the cited figure.",
    )  # fmt: skip


def _sweep_figure(s: dict[str, Any]) -> Markup:
    """Three panels: firing rate, T, resolution; one line per reading."""
    titles = {"rate": "firing rate", "steps": "time steps T", "resolution": "side of the input, × 224 and 257 × 188"}
    every = [v / _MJ for points in s["sweep"].values() for p in points for v in (*p["energy_nj"].values(), p["ann_nj"])]
    y = log_scale(every, 300, 34)
    parts: list[Markup] = []
    for i, (key, title) in enumerate(titles.items()):
        points = s["sweep"][key]
        start = 66 + i * 300
        values = [p["value"] for p in points]
        x = (
            Scale(values[0], values[-1], start, start + 230, log=True)
            if key == "rate"
            else linear_scale(values, start, start + 230)
        )
        parts += [
            x_axis(x, 300, 34, title, lambda v: f"{v:g}"),
            y_axis(y, start, start + 230, "mJ per inference", lambda v: f"{v:g}"),
        ]
        for k, r in enumerate(s["readings"]):
            parts.append(polyline([(x(p["value"]), y(p["energy_nj"][r["key"]] / _MJ)) for p in points], f"curve s{k}"))
        parts.append(polyline([(x(p["value"]), y(p["ann_nj"] / _MJ)) for p in points], "curve s7"))
        for name in ("snn", "ann"):
            parts.append(line(start, y(s["cited"][name]), start + 230, y(s["cited"][name]), "citedline"))
    for k, name in enumerate([*(r["title"] for r in s["readings"]), "ANN twin, 45 nm FP32"]):
        at = (66 + (k % 2) * 420, 362 + (k // 2) * 18)
        parts += [polyline([(at[0], at[1] - 4), (at[0] + 36, at[1] - 4)], f"curve s{k}"), text(at[0] + 44, at[1], name, "tick")]
    told = f"Energy of the paper's network under {len(s['readings'])} readings; the tables below hold the numbers"
    return figure(
        "fig-sweep", "Sweep over firing rate, T and resolution", told, (910, 430), join(parts),
        f"Others fixed: rate {percent(s['sweep_rate'])}, T = 3, 224 × 224 and 257 × 188. Thin dotted: {s['cited']['snn']} and "
        f"{s['cited']['ann']} mJ (cited).",
    )  # fmt: skip


def _sweep_tables(s: dict[str, Any]) -> Markup:
    heads = {"rate": "rate", "steps": "T", "resolution": "side ×"}
    found = []
    for axis, head in heads.items():
        rows = [
            (f"{p['value']:g}", f"{p['ann_nj'] / _MJ:.4g}", *(f"{p['energy_nj'][r['key']] / _MJ:.4g}" for r in s["readings"]))
            for p in s["sweep"][axis]
        ]
        found.append(table(f"mJ over {head}", (head, "ANN twin", *(r["key"] for r in s["readings"])), rows))
    return element("details", element("summary", "The sweeps as tables"), *found)
