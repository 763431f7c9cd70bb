"""A flow of bounded columns learns a known density that piles up at some of its bounds."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import known_laws as known
from data_prep.stream import read_split
from models.bundle import batched
from models.config import FlowConfig, TrainConfig
from models.evaluation.calibration import ranks
from models.evaluation.distances import ks_distance
from models.training.train import train

ROWS = 12_000


@pytest.fixture(scope="module")
def arms() -> dict[str, known.Arm]:
    return {arm.name: arm for arm in known.bounds(ROWS, np.random.default_rng(0))}


def test_the_truth_is_a_density_of_its_rows(arms: dict[str, known.Arm]) -> None:
    """Its rows have the entropy of the same law on the line, but for the change of variables."""
    rng = np.random.default_rng(1)
    share_N, columns = known.shares(200_000, rng)
    names = ("redshift", "q", "chi_eff", "e")
    alpha_N, single_NF = columns["alpha"], np.stack([columns[n] for n in names], 1).astype("f4")
    line_N = {n: known._on_line(*share_N[n]) for n in names[1:]}
    line_NF = np.stack([columns["redshift"], *line_N.values()], axis=1)

    bounded_N = known.bounded_log_prob(single_NF, alpha_N)
    ln_slope_N = sum(-0.5 * y_N**2 - 0.5 * np.log(2 * np.pi) for y_N in line_N.values())
    on_line_N = known.line_log_prob(line_NF, alpha_N)

    assert np.isfinite(bounded_N).all()
    # du/dy is the normal density; chi_eff has a range of 2.
    assert np.mean(on_line_N - ln_slope_N - np.log(2)) == pytest.approx(bounded_N.mean(), abs=2e-3)
    # The mean of q / p under p, for a density q that is level, is 1.
    weight_N = np.exp(-bounded_N) * (columns["redshift"] < 1)
    middle_N = (np.abs(columns["chi_eff"]) < 0.8) & (columns["q"] > 0.3) & (columns["e"] < 0.7)
    volume = 1.0 * 1.6 * 0.7 * 0.7
    assert np.mean(weight_N * middle_N) / volume == pytest.approx(1, abs=0.05)


def test_a_short_training_comes_close_and_no_draw_is_outside(tmp_path, arms) -> None:
    arm, folder = arms["bounds"], tmp_path / "known"
    known.write(arm, folder)

    config = TrainConfig(epochs=10, batch_size=512, patience=0, device="cpu")
    flow, _ = train(folder, FlowConfig(blocks=1, bins=12, hidden=24), config)

    test, rng = read_split(folder, "test"), np.random.default_rng(0)
    excess_N = arm.log_prob(test) - batched.log_prob(flow, test.events, test.conditions)
    drawn_NF = batched.draw(flow, rng.choice(test.conditions, 50_000), rng)
    assert excess_N.mean() < 0.03  # 0.010 here; 0.15 where the bounds are not told
    assert not known.beyond(drawn_NF).any()
    uniform = rng.random(len(test.events))
    for k in range(drawn_NF.shape[1]):
        assert ks_distance(ranks(test.events[:, k], drawn_NF[:, k], rng), uniform) < 0.05
