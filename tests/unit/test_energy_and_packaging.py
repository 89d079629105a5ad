"""Energy conventions by hand, and what the package promises about itself."""

from importlib.metadata import entry_points
from pathlib import Path

import pytest
import tomli

from taaf.hw_sim.counters import LayerCounts
from taaf.hw_sim.energy import CONVENTIONS, energies, load_chip
from taaf.models import errors

ROOT = Path(__file__).parents[2]


def test_energies_by_hand() -> None:
    """Two layers, two windows: every convention equals the sum worked out by hand."""
    counts = [LayerCounts("c", "conv", 10, 50, 7, 20, 1000, 4000, 300), LayerCounts("d", "dense", 5, 25, 20, 4, 600, 900, 100)]
    found = {e.convention: e for e in energies(counts, n_windows=2, ann_macs=5000)}
    assert found["loihi1_davies2018"].snn_nj == pytest.approx((1600 * 23.6 + 400 * 81 + 24 * 1.7) / 2 / 1000)
    sanafe = 600 * 35.5 + 1000 * 24.0 + 400 * (51.2 + 21.6) + 24 * (69.3 + 111)
    assert found["loihi1_sanafe"].snn_nj == pytest.approx(sanafe / 2 / 1000)
    assert found["cmos45_fp32"].snn_nj == pytest.approx(1600 * 0.9 / 2 / 1000)
    assert found["cmos45_fp32"].ann_nj == pytest.approx(5000 * 4.6 / 1000)
    assert found["cmos45_int8"].ann_nj == pytest.approx(5000 * 0.23 / 1000)
    assert found["loihi1_davies2018"].ann_nj is None


def test_every_convention_has_its_provenance_and_none_is_loihi_2() -> None:
    """Kind, source, what is included and excluded; no invented Loihi 2 energy."""
    for name in CONVENTIONS:
        chip = load_chip(name)
        assert all(chip[key] for key in ("title", "kind", "source", "includes", "excludes"))
        assert "Loihi 2" not in chip["title"]
    assert {p.stem for p in (ROOT / "hw_sim/chips").glob("*.toml")} == {*CONVENTIONS, "taaf_paper"}


def test_the_papers_unit() -> None:
    """10.85 GMAC at 4.6 pJ are 49.91 mJ, so the printed MJ must be mJ."""
    paper = load_chip("taaf_paper")
    assert pytest.approx(paper["ann"], rel=1e-3) == 10.85e9 * 4.6e-12 * 1e3
    assert (paper["snn"], paper["unit"], paper["printed_unit"]) == (18.5, "mJ", "MJ")


def test_packages_listed_are_the_folders_on_disk() -> None:
    """A folder with an __init__.py that pyproject.toml forgets would be missing from the wheel."""
    listed = set(tomli.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    rooms = ("models", "training", "export", "hw_sim", "deploy")
    on_disk = {".".join(["taaf", *p.parent.relative_to(ROOT).parts]) for r in rooms for p in (ROOT / r).rglob("__init__.py")}
    assert listed == on_disk
    assert all((ROOT / r / "py.typed").exists() for r in rooms)


def test_commands_resolve() -> None:
    """The three entry points exist and load."""
    found = {e.name: e for e in entry_points(group="console_scripts") if e.name.startswith("taaf-")}
    assert set(found) == {"taaf-train", "taaf-export", "taaf-deploy"}
    assert all(callable(e.load()) for e in found.values())


def test_exit_codes() -> None:
    """1 verification, 2 input, 3 backend."""
    assert errors.ParityError.exit_code == 1
    assert errors.BackendUnavailableError.exit_code == errors.RuntimeFailedError.exit_code == 3
    others = (errors.ConfigError, errors.CheckpointError, errors.DataError, errors.BundleError, errors.LimitExceededError)
    assert {e.exit_code for e in others} == {2}
