"""The emulator and its bundle, as a user meets them with torch and without."""

import hashlib
import json
import pickle
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from models import ArrayFlow, Emulator
from models.bundle.batched import ROWS
from models.bundle.emulator import EmulatorError, ExtrapolationWarning
from tests.random_flows import a_flow, fresh

HERE = {"Z": 0.001, "alpha": 1.0}
of_both = pytest.mark.parametrize("kind", [Emulator, ArrayFlow])


@pytest.fixture(scope="module")
def emulator(prepared):
    """Of a flow with random weights."""
    flow = fresh(prepared)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng))
    return Emulator(flow, {"metrics": {"test_nll": 4.2}, "provenance": {"study": "bbh"}})


@pytest.fixture(scope="module")
def bundle(emulator, tmp_path_factory):
    """Folder of the saved emulator. Do not write into it."""
    return emulator.save(
        tmp_path_factory.mktemp("bundle") / "emulator", extra={"run.json": b'{"schema": 1}'}
    )


@pytest.fixture(scope="module", params=[Emulator, ArrayFlow])
def either(request, bundle):
    return request.param.load(bundle)


@pytest.fixture
def copy(bundle, tmp_path):
    """Folder of a saved emulator to be damaged."""
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def test_a_saved_emulator_draws_the_same_samples(emulator, bundle):
    again = Emulator.load(bundle)

    events = again.sample(500, seed=7, **HERE)

    np.testing.assert_array_equal(events, emulator.sample(500, seed=7, **HERE))
    np.testing.assert_array_equal(again.log_prob(events, **HERE), emulator.log_prob(events, **HERE))
    assert again.card == emulator.card


def test_the_promised_attributes(bundle):
    emulator = Emulator.load(str(bundle))

    assert emulator.event_columns == ("Mass_0", "Mass_1")
    assert emulator.condition_columns == ("Z", "alpha")
    assert emulator.domain == {"Z": (0.0001, 0.01), "alpha": (0.5, 5.0)}
    assert emulator.card["metrics"] == {"test_nll": 4.2}
    assert emulator.card["event_columns"] == {"Mass_0": "Msun", "Mass_1": "Msun"}


def test_events_and_densities_are_float64_of_the_promised_shapes(emulator):
    events = emulator.sample(1000, **HERE)
    log_prob = emulator.log_prob(events, **HERE)

    assert (events.shape, events.dtype) == ((1000, 2), np.float64)
    assert (log_prob.shape, log_prob.dtype) == ((1000,), np.float64)
    assert (events > 0).all()
    assert emulator.sample(0, **HERE).shape == (0, 2)
    assert emulator.log_prob(np.empty((0, 2)), **HERE).shape == (0,)


def test_a_seed_repeats_the_draws_and_no_seed_does_not(emulator):
    one, same, other, free = (emulator.sample(10, seed=s, **HERE) for s in (1, 1, 2, None))

    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert not np.array_equal(free, emulator.sample(10, **HERE))


def test_drawing_leaves_the_global_generators_alone(emulator):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002

    emulator.sample(10, **HERE)
    emulator.sample(10, seed=3, **HERE)

    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_conditions_broadcast_and_come_in_any_order(emulator):
    events = emulator.sample(6, seed=1, **HERE)
    alpha = np.full(6, 1.0)

    scalar = emulator.log_prob(events, alpha=1.0, Z=0.001)

    np.testing.assert_array_equal(emulator.log_prob(events, Z=0.001, alpha=alpha), scalar)
    np.testing.assert_array_equal(emulator.sample(6, seed=1, alpha=alpha, Z=0.001), events)


def test_one_value_per_row_is_that_rows_condition(emulator):
    events = emulator.sample(3, seed=1, **HERE)
    alpha = np.array([0.5, 1.0, 5.0])

    rows = [emulator.log_prob(events[k : k + 1], Z=0.001, alpha=a)[0] for k, a in enumerate(alpha)]

    np.testing.assert_allclose(emulator.log_prob(events, Z=0.001, alpha=alpha), rows, rtol=1e-5)


def test_one_condition_for_all_gives_what_each_alone_would(emulator):
    events = emulator.sample(3, seed=1, **HERE)

    each = [emulator.log_prob(event[None], **HERE)[0] for event in events]

    np.testing.assert_allclose(emulator.log_prob(events, **HERE), each, rtol=1e-5)


def test_masses_that_cannot_be_have_no_density(emulator):
    log_prob = emulator.log_prob([[-1.0, 5.0], [5.0, 0.0], [9.0, 8.0]], **HERE)

    assert log_prob[:2].tolist() == [-np.inf, -np.inf]
    assert np.isfinite(log_prob[2])


def test_outside_the_domain_it_warns_raises_or_keeps_quiet(emulator, either):
    event = [[9.0, 8.0]]
    with pytest.warns(ExtrapolationWarning, match=r"Z = 0.05 is outside the range \[0.0001, 0.01]"):
        emulator.sample(3, Z=0.05, alpha=1.0)
    with pytest.warns(ExtrapolationWarning, match=r"Z = 0.05 is outside the range \[0.0001, 0.01]"):
        either.log_prob(event, Z=0.05, alpha=1.0)
    with pytest.raises(EmulatorError, match="alpha = 9 is outside the range"):
        either.log_prob(event, Z=0.001, alpha=9.0, on_extrapolation="raise")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        either.log_prob(event, Z=0.001, alpha=9.0, on_extrapolation="ignore")
        # The edges of the grid are inside even in single precision.
        either.log_prob(event, Z=float(np.float32(0.0001)), alpha=float(np.float32(5)))
        either.log_prob(event, Z=float(np.float32(0.01)), alpha=0.5)


@pytest.mark.parametrize(
    ("events", "given", "message"),
    [
        pytest.param([[9, 8]], {"Z": 0.001}, "missing alpha, unknown none", id="missing"),
        pytest.param([[9, 8]], {"z": 1, "alpha": 1}, "missing Z, unknown z", id="unknown"),
        pytest.param([[9, 8]], {**HERE, "Z": [1, 2]}, "each of the 1 events", id="length"),
        pytest.param([[9, 8]], {**HERE, "Z": np.nan}, "Z must be finite", id="nan"),
        pytest.param([[9, 8]], {**HERE, "Z": -0.1}, "Z must be above 0", id="sign"),
        pytest.param([[9, 8]], {**HERE, "Z": "solar"}, "Z must be numbers", id="text"),
        pytest.param([[np.inf, 1]], HERE, "events must be finite", id="inf"),
        pytest.param([[np.nan, 8]], HERE, "events must be finite", id="nan-event"),
        pytest.param([1, 2], HERE, "must have shape", id="shape"),
        pytest.param(
            [[9, 8]], {**HERE, "on_extrapolation": "no"}, "must be warn, raise", id="action"
        ),
    ],
)
def test_a_bad_call_is_refused_with_a_sentence(either, events, given, message):
    with pytest.raises(EmulatorError, match=message):
        either.log_prob(events, **given)


@pytest.mark.parametrize("n", [-1, 2.5])
def test_a_number_of_draws_that_is_none_is_refused(emulator, n):
    with pytest.raises(EmulatorError, match="n must be a whole number"):
        emulator.sample(n, **HERE)


def test_the_module_is_differentiable_in_events_and_conditions(bundle):
    module = Emulator.load(bundle).module
    x_NF = torch.tensor([[9.0, 8.0]], requires_grad=True)
    c_NC = torch.tensor([[0.001, 1.0]], requires_grad=True)

    module.log_prob(x_NF, c_NC).sum().backward()

    assert (x_NF.grad != 0).all()
    assert (c_NC.grad != 0).all()


def test_the_bundle_lists_the_sha256_of_every_other_file(bundle):
    card = json.loads((bundle / "emulator.json").read_text())

    assert card["format"] == 4
    assert sorted(card["files"]) == sorted(
        path.name for path in bundle.iterdir() if path.name != "emulator.json"
    )
    assert "run.json" in card["files"]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Emulator, "weights.safetensors"),
        (Emulator, "README.md"),
        (ArrayFlow, "weights.safetensors"),
    ],
)
def test_a_changed_file_is_found_out(copy, kind, name):
    (copy / name).write_bytes((copy / name).read_bytes() + b" ")

    with pytest.raises(EmulatorError, match=f"{name} is not the file that was exported"):
        kind.load(copy)


@of_both
def test_a_missing_file_is_found_out(copy, kind):
    (copy / "weights.safetensors").unlink()

    with pytest.raises(EmulatorError, match=r"weights.safetensors is missing"):
        kind.load(copy)


@of_both
@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"format": 5}, "has format 5, this version reads up to 4", id="newer"),
        pytest.param({"files": {}}, "lists no weights.safetensors", id="no-weights"),
        pytest.param({"files": {"../secret": "0"}}, "cannot be read", id="path"),
        pytest.param({"architecture": {}}, "does not fit emulator.json", id="architecture"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(copy, kind, change, message):
    path = copy / "emulator.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))

    with pytest.raises(EmulatorError, match=message):
        kind.load(copy)


@of_both
def test_a_folder_that_is_no_emulator_is_refused(tmp_path, kind):
    with pytest.raises(EmulatorError, match="is not an emulator .* make one with `hpo export`"):
        kind.load(tmp_path)


class Trap:
    def __reduce__(self):
        return pytest.fail, ("a pickle was loaded",)


@of_both
@pytest.mark.parametrize("content", [pickle.dumps(Trap()), b"\x02\0\0\0\0\0\0\0{}"])
def test_a_pickle_or_nothing_in_place_of_the_weights_is_never_loaded(copy, kind, content):
    (copy / "weights.safetensors").write_bytes(content)
    card = json.loads((copy / "emulator.json").read_text())
    card["files"]["weights.safetensors"] = hashlib.sha256(content).hexdigest()
    (copy / "emulator.json").write_text(json.dumps(card))

    with pytest.raises(EmulatorError, match="does not fit"):
        kind.load(copy)


def test_saving_replaces_an_emulator_but_nothing_else(emulator, copy, tmp_path):
    emulator.save(copy)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter-1.tex").write_text("years of work")

    with pytest.raises(EmulatorError, match="holds something that is no emulator"):
        emulator.save(tmp_path / "thesis")

    assert (tmp_path / "thesis" / "chapter-1.tex").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "thesis"]


def test_a_save_that_fails_leaves_the_old_emulator_whole(copy, tmp_path):
    before = (copy / "emulator.json").read_bytes()
    found = []

    def refuse(draft):
        found.append(Emulator.load(draft).event_columns)
        raise ValueError("it says something else")

    with pytest.raises(FileNotFoundError):
        Emulator(a_flow(1)).save(copy, extra={"run.json": tmp_path / "nowhere.json"})
    with pytest.raises(ValueError, match="something else"):
        Emulator(a_flow(1)).save(copy, check=refuse)

    assert [len(columns) for columns in found] == [1]
    Emulator.load(copy)
    assert (copy / "emulator.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]


def test_memory_does_not_grow_with_the_activations_of_many_events(emulator, monkeypatch):
    """Events go through the flow in parts of a fixed number of rows."""
    seen = []
    original = type(emulator.module).log_prob

    def log_prob(self, x_NF, c_NC, counts):
        seen.append(len(x_NF))
        return original(self, x_NF, c_NC, counts)

    monkeypatch.setattr(type(emulator.module), "log_prob", log_prob)
    emulator.log_prob(np.full((5 * ROWS, 2), 9.0), **HERE)

    assert max(seen) <= ROWS
    assert sum(seen) == 5 * ROWS


def test_an_emulator_says_what_it_is():
    metrics = {"test_nll": 4.2158, "test_nll_error": 0.0141}
    told = repr(Emulator(a_flow(), {"metrics": metrics}))

    low, high = Emulator(a_flow()).domain["Z"]
    assert told.startswith("<Emulator of p(Mass_0, Mass_1 | Z, alpha), ")
    assert f"Z {low:g} to {high:g}, " in told
    assert told.endswith("; 1 flow; test NLL 4.216 ± 0.014>")
