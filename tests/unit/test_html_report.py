"""The HTML report: its numbers are the JSON report's, what comes from files is escaped, the browser shows it as meant."""

import contextlib
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser, find_browser
from commands import run_command

from taaf.deploy.cli import main
from taaf.deploy.views.html.markup import Markup, element, plain
from taaf.deploy.views.html.numbers import energy
from taaf.models import zoo_path

SECTIONS = ["summary", "network", "raster", "activity", "energy", "study", "cores", "alpha", "agreement", "provenance"]
EVIL = "<script>alert(1)</script>"
UNITS = {" J": 1e9, " mJ": 1e6, " µJ": 1e3, " nJ": 1.0, " pJ": 1e-3}


class Page(HTMLParser):
    """What the tests ask: ids, tags, and every <data> with what is shown for it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.references: list[str] = []
        self.numbers: list[tuple[dict[str, Any], str]] = []
        self.headings = 0
        self._data: dict[str, Any] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        found = dict(attrs)
        self.tags.add(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.references += [found[k] for k in ("src", "href") if k in found]
        if tag == "data":
            self._data = found

    def handle_data(self, data: str) -> None:
        if self._data is not None:
            self.numbers.append((self._data, data))

    def handle_endtag(self, tag: str) -> None:
        if tag == "data":
            self._data = None


def _report(folder: Path, *extra: str) -> tuple[dict[str, Any], str]:
    """JSON and HTML of the same run."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main([*extra, "--json", "--report", str(folder / "r.html"), "-q"]) == 0
    return json.loads(printed.getvalue()), (folder / "r.html").read_text()


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """The shipped bundle's report with the energy study."""
    folder = tmp_path_factory.mktemp("html")
    report, text = _report(folder, "--backend", "fast", "--samples", "40", "--energy-study")
    return report, text, folder / "r.html"


def _at(report: Any, path: str) -> Any:
    for key in path.split("."):
        report = report[int(key)] if isinstance(report, list) else report[key]
    return report


def test_numbers_are_those_of_the_json_report(shipped: tuple[dict[str, Any], str, Path]) -> None:
    """Every <data> holds the JSON value (or its share per window), and what is shown is that value rounded.

    Seen failing with the layers' counts divided by one window more, and with energies shown in the next larger unit.
    """
    report, text, _ = shipped
    numbers = Page(text).numbers
    wanted = {"accuracy_percent.fused", "totals.effective_synops", "energy.0.snn_nj", "paper.snn", "agreement.spike_mismatches"}
    wanted |= {f"layers.{i}.{f}" for i in range(6) for f in ("n_neurons", "spikes_out", "effective_synops", "neuron_updates")}
    wanted |= {"energy_study.ann_twin.macs", "energy_study.readings.0.paper_network.energy_nj", "energy_study.rate"}
    wanted |= {f"energy_ranges.0.{kind}_nj.{i}" for kind in ("dynamic", "total") for i in (0, 1)}
    assert wanted <= {attributes["data-path"] for attributes, _ in numbers}
    for attributes, shown in numbers:
        value = _at(report, attributes["data-path"])
        if attributes.get("data-per"):
            value = value / _at(report, attributes["data-per"])
        assert json.loads(attributes["value"]) == pytest.approx(value, rel=1e-12), attributes
        if attributes["data-path"].split(".")[0] != "paper":
            percents = 1.0 if attributes["data-path"].startswith("accuracy") else 0.01
            assert _shown(shown, percents) == pytest.approx(value, rel=6e-3), (attributes, shown)


def _shown(text: str, percents: float) -> float:
    """The number a reader reads, in the JSON report's unit (energies there are nJ)."""
    for unit, factor in {**UNITS, " %": percents, " k": 1e3, " M": 1e6, " G": 1e9, " G MACs": 1e9}.items():
        if text.endswith(unit):
            return float(text.removesuffix(unit).replace(",", "").lstrip("= ")) * factor
    return float(text.replace(",", ""))


def test_page_is_whole_and_loads_nothing(shipped: tuple[dict[str, Any], str, Path]) -> None:
    """All sections, unique ids, every link inside the page, no script, cited figures named as another network's."""
    _, text, _ = shipped
    page = Page(text)
    assert [i for i in page.ids if i in SECTIONS] == SECTIONS and len(page.ids) == len(set(page.ids))
    assert all(r.startswith("#") and r[1:] in page.ids for r in page.references)
    assert "script" not in page.tags and "img" not in page.tags and "http://" not in text and "https://" not in text
    assert text.count('role="img"') == text.count("<desc ") >= 8
    assert "another and larger network" in text and "18.5 mJ" in text and "printed “MJ”" in text


def test_text_from_files_is_escaped(tmp_path: Path) -> None:
    """Class names, tool versions and compiler lines of a manifest, the command line, and a control character.

    Seen failing with `plain` returning its text as it is.
    """
    bundle = tmp_path / "b"
    shutil.copytree(zoo_path("ead_mini"), bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["labels"] = [EVIL, '"><img src=x onerror=alert(1)>', *manifest["labels"][2:]]
    manifest["model"] = EVIL
    manifest["tools"] = {EVIL: EVIL, "esc": "\x1b[31m"}
    manifest["compiler"] = [EVIL, {"a": EVIL}]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    _, text = _report(tmp_path, str(bundle), "--backend", "fast", "--samples", "20")
    assert "<script" not in text and "<img" not in text and "\x1b" not in text
    assert text.count("&lt;script&gt;") >= 5 and not {"script", "img"} & Page(text).tags


def test_manifest_without_the_optional_tables(tmp_path: Path) -> None:
    """Tools, compiler and relays that are missing or of another type: a page all the same."""
    for i, value in enumerate((None, "text", [1, 2], {"a": [1]})):
        bundle = tmp_path / f"b{i}"
        shutil.copytree(zoo_path("ead_mini"), bundle)
        manifest = json.loads((bundle / "manifest.json").read_text())
        for table, key in ((manifest, "tools"), (manifest, "compiler"), (manifest["branches"]["event"], "relays")):
            table[key] = value
        (bundle / "manifest.json").write_text(json.dumps(manifest))
        assert main([str(bundle), "--backend", "fast", "--samples", "2", "--report", str(tmp_path / f"{i}.html"), "-q"]) == 0


def test_a_net_file_has_a_page_without_head_and_cited_figures(tmp_path: Path) -> None:
    """Network, raster, counts, agreement per layer; no attention, nothing from the paper."""
    net = tmp_path / "one.net"
    shutil.copy(zoo_path("ead_mini") / "audio.net", net)
    report, text = _report(tmp_path, str(net), "--backend", "fast", "--samples", "3", "--steps", "6")
    page = Page(text)
    assert [i for i in page.ids if i in SECTIONS] == [
        "summary",
        "network",
        "raster",
        "activity",
        "energy",
        "cores",
        "agreement",
        "provenance",
    ]
    paths = {a["data-path"] for a, _ in page.numbers}
    assert {f"agreement.reference.layer_mismatches.{n}" for n in report["agreement"]["reference"]["layer_mismatches"]} <= paths
    assert "18.5" not in text and "not data of any task" in text


def test_raster_shows_the_windows_spikes(tmp_path: Path) -> None:
    """Totals per population equal an engine run on that window, sampled rows are those of the neurons named."""
    from taaf.deploy.views.details import raster

    drawn = np.random.default_rng(1).random((300, 7)) < 0.3
    r = raster({"a": {"x": drawn.astype(np.uint8), "y": drawn[:5].astype(np.uint8)}}, "test")
    x, y = r["layers"]
    assert len(x["rows"]) == 48 and len(y["rows"]) == 5 and x["per_step"] == drawn.sum(0).tolist()
    found = np.zeros((48, 7), bool)
    found[tuple(np.array(x["spikes"]).T)] = True
    assert np.array_equal(found, drawn[x["rows"]])


def test_core_maps_draw_every_core(shipped: tuple[dict[str, Any], str, Path]) -> None:
    """As many cells as the mapper found cores, on both chips, and the reason where a network cannot be mapped.

    Seen failing with the cores of the second slot of a router left out.
    """
    from taaf.deploy.views.html.cores import core_part
    from taaf.export.bundle.reader import read_bundle
    from taaf.hw_sim.mapper.mapping import map_graphs

    graphs = read_bundle(zoo_path("ead_mini")).graphs
    for chip in ("loihi1", "loihi2"):
        picture = shipped[1].split(f'id="fig-cores-{chip}"')[1].split("</figure>")[0]
        mapping = map_graphs(graphs, chip)
        assert picture.count("neurons, fullest limit") == mapping.n_cores > 0
        assert len(set(re.findall(r'<rect class="[^"]*" (x="[^"]*" y="[^"]*")', picture))) == mapping.n_cores + mapping.n_chips
    assert "no constants" not in shipped[1] and "per step, " in shipped[1]
    assert shipped[1].count("Placed by counted messages: hops cost ") == 2
    assert "Cannot be mapped: &lt;b&gt;" in "".join(core_part([{"chip": "loihi1", "error": "<b>"}]))


def test_silent_and_short_networks_have_a_page(tmp_path: Path) -> None:
    """No spike at all, one step, one layer: scales, shares and rates of nothing are drawn, not divided by."""
    for extra in (["--rate", "0"], ["--steps", "1", "--layers", "2"]):
        request = [str(zoo_path("ead_mini") / "audio.net"), "--backend", "fast", "--samples", "2", *extra, "--energy-study"]
        assert main([*request, "--report", str(tmp_path / "x.html"), "-q"]) == 0
        text = (tmp_path / "x.html").read_text()
        assert not re.search(r"\b(nan|inf)\b", text) and 'id="study"' in text


@pytest.mark.slow
@pytest.mark.needs_lava
def test_page_of_a_lava_run_lists_every_layer(tmp_path: Path) -> None:
    """The agreement of all six layers with the engine, and the raster as recorded there."""
    report, text = _report(tmp_path, "--backend", "sim", "--samples", "2")
    paths = {a["data-path"]: json.loads(a["value"]) for a, _ in Page(text).numbers}
    layers = report["agreement"]["layer_mismatches"]
    assert len(layers) == 6 and {f"agreement.layer_mismatches.{n}": v for n, v in layers.items()}.items() <= paths.items()
    assert "as recorded on the Lava runtime" in text


def test_page_of_an_early_exit(tmp_path: Path) -> None:
    """The spikes drawn are those of the window whose input fell silent after the decision, as counted.

    Seen failing with the whole input drawn.
    """
    report, text = _report(tmp_path, "--backend", "fast", "--samples", "1", "--early-exit", "0.9")
    assert "Early exit at confidence 0.9" in text
    for layer in report["layers"]:
        assert f"{layer['layer']} {layer['spikes_out']} spikes" in text


@pytest.mark.long
def test_page_of_resnet18_branches(tmp_path: Path) -> None:
    """From calibration to the page: encoders on the host in drawing and study, the generated inputs said."""
    config = tmp_path / "tiny.toml"
    own = 'network = "resnet18"\nsteps = 3\nwidth = 2\nfeatures = 6\n'
    visual, audio = f"{own}shape = [3, 33, 33]\nscale = 32\n", f"{own}shape = [1, 40, 24]\nscale = 8\n"
    head = 'type = "taaf"\nclasses = 6\naligned_steps = 3\n'
    config.write_text(f'[data]\nset = "generated"\n[branches.visual]\n{visual}[branches.audio]\n{audio}[head]\n{head}')
    assert run_command("train", "--config", config, "--calibrate-only", "--out", tmp_path / "run", "-q").returncode == 0
    done = run_command("export", tmp_path / "run" / "model.pt", "--to", "netx", "--out", tmp_path / "bundle", "-q")
    assert done.returncode == 0, done.stderr
    report, text = _report(tmp_path, str(tmp_path / "bundle"), "--backend", "fast", "--samples", "3", "--energy-study")
    macs = sum(report["encoder_macs_per_window"].values())
    assert macs == report["energy_study"]["split"]["macs"]["first"] > 0 and report["energy_study"]["split"]["real_input"]
    assert f"{macs:,}" in text and "encoder on the host: conv 7x7 /2" in text and "inputs are generated" in text
    assert not report["paper"]["same_size"] and not report["energy_study"]["is_paper_scale"]


@pytest.mark.needs_browser()
def test_in_a_browser(shipped: tuple[dict[str, Any], str, Path], tmp_path: Path) -> None:
    """Chromium, light and dark, wide and narrow: no complaint, nothing requested, no horizontal overflow, readable contrast.

    Seen failing: a script in the page (the policy complains), tables without a scrolling frame (overflow at 360), a label cut off.
    """
    executable = find_browser()
    assert executable is not None
    colours = set()
    with Browser(executable, tmp_path) as browser:
        for width, dark in ((1200, False), (360, True), (360, False)):
            browser.open(shipped[2], width, dark=dark)
            assert browser.evaluate("[...document.querySelectorAll('main > section')].map(s => s.id).join()") == ",".join(
                SECTIONS
            )
            assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth"), (width, dark)
            hidden = "[...document.querySelectorAll('section, figure svg')].filter(x => x.getBoundingClientRect().height < 40).length"
            assert browser.evaluate(hidden) == 0
            body = "(s => s.backgroundColor + ' ' + s.color)(getComputedStyle(document.body))"
            colours.add((dark, browser.evaluate(body)))
            clipped = (
                "[...document.querySelectorAll('figure svg')].flatMap(s => [...s.querySelectorAll('text')].filter(t => {"
                "const a = t.getBoundingClientRect(), b = s.getBoundingClientRect();"
                "return a.left < b.left - 1 || a.right > b.right + 1 || a.bottom > b.bottom + 1}).map(t => t.textContent)).join('|')"
            )
            assert browser.evaluate(clipped) == "", "text cut off at the edge of a picture"
        assert browser.complaints == []
        assert set(browser.requests) == {shipped[2].resolve().as_uri()}
    assert len(colours) == 2  # one pair per scheme


def test_markup() -> None:
    """Attributes and children are escaped, built markup is not escaped twice."""
    inner = element("b", "<&>", title='"quoted"')
    assert element("p", inner, None, 3, class_="x", data_path="a.b") == (
        '<p class="x" data-path="a.b"><b title="&quot;quoted&quot;">&lt;&amp;&gt;</b>3</p>'
    )
    assert isinstance(inner, Markup) and plain("a\x00b\u202e") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"
    assert [energy(x) for x in (49.91e6, 18650.0, 0.5, 0.0)] == ["49.91 mJ", "18.65 µJ", "500 pJ", "0 pJ"]
