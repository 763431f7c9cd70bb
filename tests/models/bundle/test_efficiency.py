"""Merger efficiency: a known rate recovered from counts, with errors that mean what they say."""

import json
import subprocess
import sys

import numpy as np
import pytest

from data_prep.columns import Column
from data_prep.dataset import SAMPLE, Dataset, Total
from models import Emulator
from models.arrays.flow import ArrayFlow
from models.bundle.domain import ExtrapolationWarning
from models.bundle.efficiency import Efficiency
from models.bundle.files import EmulatorError
from models.modes import Settings
from tests.random_flows import a_flow

COLUMNS = (Column("Z", "", True), Column("alpha", "", True))
GRID = [(Z, alpha) for Z in np.geomspace(1e-4, 1e-2, 6) for alpha in (0.5, 1.0, 2.0, 5.0)]
HERE = {"Z": 0.001, "alpha": 1.0}


def truth(Z, alpha):
    """Mergers per simulated binary."""
    return 0.02 * np.exp(-0.5 * np.log10(Z / 1e-4) ** 2 + 0.6 * np.sin(1.5 * np.log(alpha)))


def drawn(seed, simulated=20_000, rate=truth, unit="binaries"):
    rng = np.random.default_rng(seed)
    cells = [Total(cell, simulated, rng.binomial(int(simulated), rate(*cell))) for cell in GRID]
    return Efficiency(COLUMNS, tuple(cells), unit)


def line(*mergers, simulated=1000.0, unit="binaries"):
    """Cells along one condition that is not logged."""
    cells = tuple(Total((float(k),), simulated, count) for k, count in enumerate(mergers))
    return Efficiency((Column("x", "", False),), cells, unit)


@pytest.fixture(scope="module")
def efficiency():
    return drawn(0)


def test_waves_are_recovered_between_the_cells_with_errors_that_are_not_too_small():
    """They are smoother than what rates are taken for, and known better than is said."""
    z = []
    for seed in range(8):
        rng = np.random.default_rng(1000 + seed)
        (p, q), (u, v) = rng.uniform(0, 2 * np.pi, 2), rng.uniform(0.3, 1.0, 2)

        def rate_of(Z, alpha, p=p, q=q, u=u, v=v):
            return 0.02 * np.exp(u * np.sin(np.log10(Z) + p) + v * np.sin(np.log(alpha) + q))

        Z, alpha = 10 ** rng.uniform(-4, -2, 20), rng.uniform(0.5, 5.0, 20)
        rate, std = drawn(seed, rate=rate_of)(Z=Z, alpha=alpha, return_std=True)
        z.append(np.log(rate / rate_of(Z, alpha)) * rate / std)

    assert np.mean(np.abs(z) < 1) > 0.75
    assert 0.3 < np.sqrt(np.mean(np.square(z))) < 1
    assert abs(np.mean(z)) < 0.3


@pytest.mark.slow
def test_errors_are_right_where_the_rate_is_as_likely_as_it_is_taken_for():
    """Rates of settings that are drawn from their prior, plateaus and cliffs among them."""
    z = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        places = np.log(
            GRID + list(zip(10 ** rng.uniform(-4, -2, 6), [0.7, 1.5, 4.0] * 2, strict=True))
        )
        unit = (places - places[:24].mean(0)) / np.ptp(places[:24], axis=0)
        mean, std = Settings.prior(2)
        one = Settings.of(mean + std * rng.standard_normal((1, len(mean))))
        x = one.warped(np, unit[:, None])
        covariance = one.covariance(np, x, x.swapaxes(0, 1))[:, 0]
        g = rng.multivariate_normal(np.zeros(len(x)), covariance)
        h = np.logaddexp(0, g + one.knee_K) / np.logaddexp(0, one.knee_K)
        rates = 0.01 * h / (1 + 0.01 * h)
        counts = rng.binomial(20_000, rates[:24])
        if not counts.any():
            continue
        cells = tuple(Total(at, 20_000, int(n)) for at, n in zip(GRID, counts, strict=True))
        Z, alpha = np.exp(places[24:]).T
        rate, std = Efficiency(COLUMNS, cells, "binaries")(Z=Z, alpha=alpha, return_std=True)
        z.append(np.log(rate / rates[24:]) * rate / std)

    assert 0.6 < np.mean(np.abs(z) < 1) < 0.76
    assert 0.9 < np.mean(np.abs(z) < 2) < 0.98


def test_at_the_cells_the_errors_are_no_larger_than_those_of_the_counts():
    Z, alpha = np.array(GRID).T
    z = []
    for seed in range(8):
        one = drawn(seed)
        rate, std = one(Z=Z, alpha=alpha, return_std=True)
        z.append(np.log(rate / truth(Z, alpha)) * rate / std)
        count = np.array([cell.mergers for cell in one.cells])
        assert (std / rate <= 1.01 * np.sqrt((1 - rate) / (rate * 20_000))).all()
        assert (np.abs(np.log(rate * 20_000 / count)) < 4 / np.sqrt(count)).all()

    assert 0.58 < np.mean(np.abs(z) < 1) < 0.85


def test_a_cell_with_many_mergers_has_their_ratio():
    Z, alpha = np.array(GRID).T
    many = drawn(3, simulated=1e9)

    rate = many(Z=Z, alpha=alpha)

    np.testing.assert_allclose(rate, [cell.mergers / 1e9 for cell in many.cells], rtol=1e-4)


def test_all_expected_mergers_are_all_mergers(efficiency):
    Z, alpha = np.array(GRID).T

    expected = 20_000 * np.exp(efficiency.log_rate(np.stack([Z, alpha], -1))).sum()

    assert expected == pytest.approx(sum(cell.mergers for cell in efficiency.cells), rel=1e-3)


def test_rates_that_rise_evenly_are_followed_between_the_cells():
    x = np.linspace(0, 4, 41)

    rate, std = line(10, 30, 90, 270, 810)(x=x, return_std=True)

    assert (np.abs(np.log(rate / (0.01 * 3.0**x))) <= std / rate).all()
    assert (np.diff(rate[::10]) > 0).all()


def test_between_cells_it_is_less_sure_than_at_them_and_beyond_them_least():
    counts = line(400, 900, 300, 800)

    rate, std = counts(x=[1.0, 1.5, 8.0], return_std=True, on_extrapolation="ignore")

    at, between, beyond = std / rate
    assert at < between < beyond


def test_a_cell_without_a_merger_is_small_finite_and_unsure():
    one = line(500, 400, 0, 0, simulated=10_000.0)

    rate, std = one(x=3.0, return_std=True)

    assert 0 < rate < 3 / 10_000
    assert std > 0.7 * rate
    assert rate < one(x=0.0) / 100


def test_per_msun_is_per_what_was_simulated():
    one, other = (line(5, 10, 40, simulated=each, unit="Msun") for each in (1e3, 1e5))

    np.testing.assert_allclose(other(x=[0.3, 1.7]) * 100, one(x=[0.3, 1.7]), rtol=1e-7)


def test_where_many_binaries_merge_the_count_is_binomial():
    """Of a fraction p the error is that of a Poisson count times sqrt(1 - p)."""
    p = np.array([0.3, 0.45, 0.6, 0.5])

    rate, std = line(*(1000 * p).astype(int).tolist())(x=np.arange(4.0), return_std=True)

    np.testing.assert_allclose(rate, p, rtol=0.05)
    np.testing.assert_allclose(std, np.sqrt(p * (1 - p) / 1000), rtol=0.1)


def test_the_mean_rate_is_that_of_the_functions_that_may_be_the_rate(monkeypatch):
    """Between cells and beyond: mean and spread of the draws are those of the posterior."""
    one = line(400, 900, 30, 2, simulated=10_000.0)
    x = np.array([0.0, 0.5, 1.5, 2.5, 3.0])
    monkeypatch.setattr("models.bundle.efficiency.DRAWS", 1600)
    ln_RN = one.log_rates(x[:, None])

    rate, std = one(x=x, return_std=True)

    error = std / rate / np.sqrt(1600)
    assert (np.abs(ln_RN.mean(0) - np.log(rate)) < 5 * error).all()
    np.testing.assert_allclose(ln_RN.std(0), std / rate, rtol=0.15)
    np.testing.assert_allclose(np.exp(one.log_rate(x[:, None])), np.exp(ln_RN).mean(0), rtol=0.12)
    assert (np.exp(one.log_rate(x[:, None])) >= rate * (1 - 1e-9)).all()
    # A draw is one function: what is drawn high beside a cell is drawn high a little farther, too.
    near, far = ln_RN[:, 2], one.log_rates(np.array([[1.52]]))[:, 0]
    assert np.corrcoef(near, far)[0, 1] > 0.9


def test_a_thousand_cells_take_seconds():
    rng = np.random.default_rng(0)
    cells = [(Z, a) for Z in np.geomspace(1e-4, 1e-2, 30) for a in np.geomspace(0.5, 5, 30)]
    one = Efficiency(
        COLUMNS, tuple(Total(c, 1e4, int(rng.poisson(1e4 * truth(*c)))) for c in cells), "binaries"
    )

    rate, std = one(**HERE, return_std=True)

    assert abs(np.log(rate / truth(**HERE))) < 4 * std / rate


@pytest.mark.parametrize(
    ("Z", "alpha", "shape"),
    [
        pytest.param(0.001, 1.0, (), id="numbers"),
        pytest.param([0.001] * 3, 1.0, (3,), id="one-of-each"),
        pytest.param([0.001] * 3, [1.0] * 3, (3,), id="both"),
        pytest.param([[0.001], [0.002]], [1.0, 2.0, 3.0], (2, 3), id="grid"),
        pytest.param([], 1.0, (0,), id="none"),
    ],
)
def test_conditions_broadcast(efficiency, Z, alpha, shape):
    rate, std = efficiency(Z=Z, alpha=alpha, return_std=True)

    assert (rate.shape, std.shape, rate.dtype) == (shape, shape, np.float64)
    assert isinstance(std, np.ndarray)
    if rate.size:
        assert rate.flat[0] == pytest.approx(float(efficiency(**HERE)), rel=1e-12)


def test_outside_the_cells_it_warns_where_it_was_called_raises_or_is_silent(efficiency):
    with pytest.warns(ExtrapolationWarning, match=r"Z = 0.1 is outside") as caught:
        efficiency(Z=0.1, alpha=1.0)
    assert caught[0].filename == __file__
    with pytest.raises(EmulatorError, match="alpha = 9 is outside"):
        efficiency(Z=0.001, alpha=9.0, on_extrapolation="raise")
    assert np.isfinite(efficiency(Z=0.1, alpha=9.0, on_extrapolation="ignore"))


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        pytest.param({"Z": 0.001}, "missing alpha", id="missing"),
        pytest.param({**HERE, "q": 1.0}, "unknown q", id="unknown"),
        pytest.param({"Z": [1e-3, 2e-3], "alpha": [1.0] * 3}, "shapes that broadcast", id="shape"),
        pytest.param({"Z": np.nan, "alpha": 1.0}, "Z must be finite", id="nan"),
        pytest.param({"Z": -1.0, "alpha": 1.0}, "Z must be above 0", id="negative"),
    ],
)
def test_conditions_that_cannot_be_are_refused(efficiency, conditions, message):
    with pytest.raises(EmulatorError, match=message):
        efficiency(**conditions)


@pytest.mark.parametrize(
    ("cells", "unit", "message"),
    [
        pytest.param([], "binaries", "at least one merger", id="none"),
        pytest.param([Total((1.0,), 9.0, 0)], "binaries", "at least one merger", id="zero"),
        pytest.param([Total((1.0,), 9.0, 10)], "binaries", "10 mergers of 9", id="too-many"),
        pytest.param([Total((1.0,), 9.0, 1)] * 2, "Msun", "twice", id="doubled"),
        pytest.param([Total((1.0, 2.0), 9.0, 1)], "Msun", "2 conditions, not 1", id="conditions"),
        pytest.param([Total((1.0,), 9.0, 1)], "kg", "binaries or Msun", id="unit"),
    ],
)
def test_cells_that_cannot_be_are_refused(cells, unit, message):
    with pytest.raises(EmulatorError, match=message):
        Efficiency((Column("x", "", False),), tuple(cells), unit)


COSMIC = tuple(
    Total(cell.conditions, 40_000, cell.train + cell.val + cell.test)
    for cell in Dataset.read(SAMPLE).cells
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "within"),
    # Found (benchmarks/rates.py): 75 and 96 % of the plateau's 28, 50 and 88 % of the cliff's 8.
    [
        pytest.param(lambda Z: Z < 0.003, ((0.6, 0.8), (0.9, 0.98)), id="plateau"),
        pytest.param(lambda Z: Z > 0.003, ((0.5, 0.76), (0.87, 1.0)), id="cliff"),
    ],
)
def test_each_of_cosmics_cells_is_predicted_from_the_others(which, within):
    z = []
    for k, left_out in enumerate(COSMIC):
        if not which(left_out.conditions[0]):
            continue
        others = Efficiency(COLUMNS, COSMIC[:k] + COSMIC[k + 1 :], "binaries")
        here = dict(zip(("Z", "alpha"), left_out.conditions, strict=True))
        rate, std = others(**here, return_std=True, on_extrapolation="ignore")
        error = np.hypot(std / rate, 1 / np.sqrt(left_out.mergers + 0.5))
        z.append(np.log(left_out.mergers / 40_000 / rate) / error)

    for sigmas, (low, high) in zip((1, 2), within, strict=True):
        assert low <= np.mean(np.abs(z) < sigmas) <= high


# ---- in a bundle


@pytest.fixture(scope="module")
def with_totals(efficiency, tmp_path_factory):
    """Folder of an emulator with that efficiency. Do not write into it."""
    emulator = Emulator(a_flow(), {"efficiency": efficiency.to_card()})
    return emulator.save(tmp_path_factory.mktemp("bundle") / "emulator")


def test_a_bundle_tells_the_same_rates_with_torch_and_without(with_totals, efficiency):
    here = {"Z": [0.0003, 0.004], "alpha": 1.7}
    rate, std = efficiency(**here, return_std=True)

    for loaded in (Emulator.load(with_totals), ArrayFlow.load(with_totals)):
        found = loaded.efficiency(**here, return_std=True)
        np.testing.assert_array_equal(found, (rate, std))
    assert "emulator.efficiency(Z=0.0001" in (with_totals / "README.md").read_text()
    assert (
        json.loads((with_totals / "emulator.json").read_text())["efficiency"]["unit"] == "binaries"
    )


@pytest.mark.parametrize(
    ("columns", "card", "at", "rate", "std"),
    # Of version 0.1, before rates were averaged over settings.
    [
        pytest.param(
            COLUMNS,
            Efficiency(COLUMNS, COSMIC, "binaries").to_card(),
            {"Z": [0.0003, 0.0015, 0.005, 0.006], "alpha": [1.7, 2.0, 0.7, 5.0]},
            [0.09203445187140485, 0.05839966558444413, 0.0033601964846084673, 0.001639801543932669],
            [0.06894990357147801, 0.042849914983339336, 0.0015611392335346, 0.00020016351454728914],
            id="counts",
        ),
        pytest.param(
            (Column("x", "", False),),
            Efficiency(
                (Column("x", "", False),),
                line(10, 0, 7, simulated=1e5).cells,
                "Msun",
                ((20.0, 40.0), (0.0, 0.0), (14.0, 28.0)),
            ).to_card(),
            {"x": [1.0, 1.5, 8.0]},
            [1.1521498425966362e-05, 6.543591178312055e-05, 7.103324274824897e-05],
            [1.2912248367764178e-05, 0.0001307404753057038, 0.00014637795222873743],
            id="weights",
        ),
    ],
)
def test_a_bundle_of_before_gives_the_numbers_that_it_gave(columns, card, at, rate, std):
    del card["averaged"]
    one = Efficiency.from_card({"efficiency": card}, columns)

    found = one(**at, return_std=True, on_extrapolation="ignore")

    np.testing.assert_allclose(found, (rate, std), rtol=1e-6)
    c = np.stack(list(map(np.array, at.values())), -1)
    np.testing.assert_allclose(one.log_rates(c), np.log(rate)[None], rtol=1e-6)
    assert Efficiency.from_card({"efficiency": one.to_card()}, columns) == one


def test_a_bundle_without_totals_names_the_remedy(bundle):
    assert "efficiency" not in Emulator.load(bundle).card
    for one in (Emulator.load(bundle), ArrayFlow.load(bundle)):
        with pytest.raises(EmulatorError, match="hpo prepare SOURCE --out DIR --totals FILE"):
            one.efficiency(**HERE)


def test_a_damaged_efficiency_is_refused_in_a_sentence(efficiency):
    card = efficiency.to_card()
    del card["cells"][3]["mergers"]

    with pytest.raises(EmulatorError, match="cannot be read .*mergers.*export it again"):
        Emulator(a_flow(), {"efficiency": card}).efficiency(**HERE)


def test_rates_need_no_torch(with_totals):
    probe = (
        "import sys; from models.arrays.flow import ArrayFlow\n"
        "ArrayFlow.load(sys.argv[1]).efficiency(Z=0.001, alpha=1.0)\n"
        "print({'torch', 'scipy'} & set(sys.modules))"
    )

    done = subprocess.run(
        [sys.executable, "-c", probe, with_totals], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "set()"


def weighed(seed, simulated=20_000, scale=1.0):
    """As `drawn`, where mergers were looked for ten times as often, and found with odd weights."""
    rng, cells, sums = np.random.default_rng(seed), [], []
    for cell in GRID:
        count = int(rng.poisson(10 * simulated * truth(*cell)))
        weights = scale * 0.1 * rng.lognormal(-0.5, 1.0, count)
        cells.append(Total(cell, simulated, count))
        sums.append((float(weights.sum()), float((weights**2).sum())))
    return Efficiency(COLUMNS, tuple(cells), "binaries", tuple(sums))


def test_rates_of_weighted_mergers_are_recovered_with_errors_that_hold():
    z = []
    for seed in range(8):
        Z, alpha = np.array(GRID).T
        rate, std = weighed(seed)(Z=Z, alpha=alpha, return_std=True)
        z.append(np.log(rate / truth(Z, alpha)) * rate / std)

    assert 0.58 < np.mean(np.abs(z) < 1) < 0.85
    assert abs(np.mean(z)) < 0.3


def test_mergers_of_equal_weight_give_the_plain_rate(efficiency):
    counts = [cell.mergers for cell in efficiency.cells]
    ones = Efficiency(COLUMNS, efficiency.cells, "binaries", tuple((n, n) for n in counts))

    np.testing.assert_array_equal(ones(**HERE), efficiency(**HERE))


def test_a_cell_without_mergers_is_as_sure_as_weighted_ones_are():
    """Weights of 2: each merger stands for two, and as little is known as of half of them."""
    x = Column("x", "", False)
    plain = line(10, 0, 7, simulated=500.0, unit="Msun")
    twice = Efficiency((x,), line(10, 0, 7).cells, "Msun", ((20.0, 40.0), (0.0, 0.0), (14.0, 28.0)))

    for at in (0.0, 1.0, 2.0):
        np.testing.assert_allclose(twice(x=at, return_std=True), plain(x=at, return_std=True))


def test_weighted_rates_travel_in_the_card_and_an_older_version_refuses_them():
    ours = weighed(3)
    card = json.loads(json.dumps({"efficiency": ours.to_card()}))

    again = Efficiency.from_card(card, COLUMNS)

    assert again == ours
    assert all(type(cell["mergers"]) is float for cell in card["efficiency"]["cells"])


@pytest.mark.parametrize(
    ("sums", "message"),
    [
        ((), "at least one"),
        (((5.0, 5.0),), "not those of its mergers"),
        (((5.0, 100.0), (0.0, 0.0)), "not those of its mergers"),
        (((100.0, 5.0), (0.0, 0.0)), "not those of its mergers"),
        (((float("nan"), 5.0), (0.0, 0.0)), "not those of its mergers"),
        (((2000.0, 1e6), (0.0, 0.0)), "1 on average over all binaries simulated"),
    ],
    ids=["none", "too-few", "too-uneven", "too-even", "nan", "too-many"],
)
def test_weights_that_cannot_be_are_refused(sums, message):
    counts = (5, 0) if sums else (0, 0)
    cells = tuple(Total((float(k),), 1000.0, count) for k, count in enumerate(counts))

    with pytest.raises(EmulatorError, match=message):
        Efficiency((Column("x", "", False),), cells, "binaries", sums)
