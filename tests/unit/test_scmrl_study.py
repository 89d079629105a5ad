"""Cells of the S-CMRL studies are the experiments they are named after; tables hold their results; noise in training."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from taaf.models.config import NetworkConfig
from taaf.training import config as config_module
from taaf.training.config import DataConfig, TrainConfig, from_dict, load_config
from taaf.training.datasets.ead_mini import add_image_noise, load_split
from taaf.training.sources import InMemory, open_split
from taaf.training.studies import scmrl_study as study
from taaf.training.studies.scmrl_tables import write_sweeps


@pytest.fixture(scope="module")
def base() -> TrainConfig:
    """The shipped study's configuration."""
    return load_config(Path(config_module.__file__).parent / "configs/scmrl_study.toml", {})


def _cells(base: TrainConfig) -> dict[str, study.SystemCell]:
    sections = [study.ablation_section(), study.option_section(base), *study.sweep_sections()]
    noisy = [cell for cells in study.training_noise(base).values() for cell in cells]
    return {cell.row: cell for cell in [*study.system_cells(base), *noisy, *(c for s in sections for c in s.cells)]}


def test_every_cell_is_a_training(base: TrainConfig) -> None:
    """Configurations resolve, and cells of one folder, and only they, are the same training."""
    resolved = {row: from_dict(cell.config(base, 3)) for row, cell in _cells(base).items()}
    assert all(c.network.check() and c.optimiser.seed == 3 for c in resolved.values())
    folders: dict[str, TrainConfig] = {}
    for row, cell in _cells(base).items():
        assert folders.setdefault(cell.folder, resolved[row]) == resolved[row], row
    assert len(folders) == 10 + 2 + 3 + 4 + 4 + 12  # study; single attentions, comparisons, sweeps, noise in training
    assert len({repr(c) for c in folders.values()}) == len(folders)


@pytest.mark.parametrize(
    ("row", "head", "loss"),
    [
        (study.RESIDUAL, {"cross_modal": "residual", "residual_layer": "none", "residual_alpha": 1.5}, {"sao": 0.0}),
        ("SCA", {"cross_modal": "attention", "attention_kind": "spatial", "residual_layer": "none"}, {"sao": 0.0}),
        ("temporal alone", {"attention_kind": "temporal", "residual_layer": "none"}, {"sao": 0.0}),
        ("alpha 0", {"residual_alpha": 0.0, "residual_layer": "spiking"}, {"sao": 1.0}),
        ("temperature 0.5", {"attention_threshold": 1.0}, {"sao": 1.0, "sao_temperature": 0.5}),
        ("CMCI, three losses", {"cross_modal": "cmci"}, {"beta": 1.0}),
        (
            "attention threshold 0.5, as the original is written",
            {"attention_threshold": 0.5, "attention_at_threshold": True},
            {},
        ),
    ],
)
def test_what_cells_change(base: TrainConfig, row: str, head: dict[str, Any], loss: dict[str, float]) -> None:
    """By the settings that tell the experiment from others."""
    values = from_dict(_cells(base)[row].config(base, 1)).to_dict()
    assert {k: values["head"][k] for k in head} == head and {k: values["loss"][k] for k in loss} == loss


def test_noise_in_training_alone() -> None:
    """The training images carry the noise, test and human parts do not; "all" adds it everywhere, as before there was a choice.

    Variance mean(x^2) 10^(-dB / 10) per image against a float64 formula on images without saturation.
    """
    specs = NetworkConfig.from_dict({}).inputs
    data = DataConfig(event_snr_db=0.0, train_pairs=3, test_pairs=3, noise_in="train")
    for split, noisy in (("train", True), ("test", False)):
        found = open_split(data, specs, split)
        assert isinstance(found, InMemory)
        clean, expected = (load_split(split, slice(3), event_snr_db=db).event for db in (99.0, 0.0))
        assert (clean != expected).any()
        np.testing.assert_array_equal(found.inputs["event"], expected if noisy else clean)
        everywhere = open_split(replace(data, noise_in="all"), specs, split)
        assert isinstance(everywhere, InMemory)
        np.testing.assert_array_equal(everywhere.inputs["event"], expected)
    image = np.full((1, 200, 200), 120, np.uint8)
    noise = add_image_noise(image, 20.0, 1).astype(np.float64) - 120
    assert noise.std() == pytest.approx(math.sqrt(120.0**2 / 10**2 + 1 / 12), rel=0.02)


def test_conditions_of_a_cell_trained_with_noise(base: TrainConfig) -> None:
    """It is tested as the others: clean, and with each condition's own noise. Seen failing with the noise of training kept."""
    values = study.training_noise(base)[study.S_CMRL][-1].config(base, 1)["data"]
    assert (values["event_snr_db"], values["noise_in"]) == (0.0, "train")
    plain = base.to_dict()["data"]
    for noise in study.conditions().values():
        assert study.tested_on(values, noise) == study.tested_on(plain, noise)
    assert (
        study.tested_on(values, {}).event_snr_db == 99.0
        and study.tested_on(values, {"event_snr_db": 10.0}).event_snr_db == 10.0
    )
    assert study.tested_on({**plain, "audio_snr_db": 5.0}, {}).audio_snr_db == 5.0


def test_tables_of_sweeps(base: TrainConfig, tmp_path: Path) -> None:
    """Means, deviations and paired differences of made-up results, row by row."""
    cells = {c.row: c for cells in study.training_noise(base).values() for c in cells}
    cells |= {c.row: c for s in study.sweep_sections() for c in s.cells}
    results = []
    for i, cell in enumerate(cells.values()):
        for seed in (1, 2, 3):
            accuracy = {"fused": 50.0 + i + seed, "event": 40.0, "audio": 30.0}
            noise = dict.fromkeys(study.conditions(), accuracy)
            results.append((cell, seed, {"parameters": 7, "noise": noise, "test_fused": 50.0 + i + seed}))
    paths = write_sweeps(results, study.sweep_sections(), base, tmp_path)
    assert [p.name for p in paths] == ["scmrl_sweeps.csv", "scmrl_sweeps.md"]
    text, order = paths[1].read_text(), list(cells)
    for row in ("spatial alone", "CMCI, three losses", "alpha 0", "temperature 0.5"):
        assert f"| {row} | {52.0 + order.index(row):.2f} ± 1.00 | 40.00 ± 0.00 | 30.00 ± 0.00 |" in text
    step = order.index("alpha 2") - order.index("alpha 1.5")
    assert f"{step:+.2f} ± 0.00 * |\n" in text.split("| alpha 2 |")[1][:120]
    first = order.index(study.S_CMRL), order.index(study.TAAF), order.index(study.CONCAT)
    values = " | ".join(f"{52.0 + i:.2f} ± 1.00" for i in first)
    assert f"| trained clean | {values} |" in text and text.count("| trained at ") == 4
    assert len(paths[0].read_text().splitlines()) == 1 + len(cells) * 3 * len(study.conditions())
