"""Early stopping: patience, rate of loss, time budget."""

import pytest

from models.config import TrainConfig
from models.training.stopping import Stopping


def feed(values, config, *, seconds=1.0):
    """Evaluations until a reason is given: their number and the reason."""
    stopping = Stopping()
    for number, value in enumerate(values, 1):
        stopping.add(value, units=1.0, smoothing=config.rate_smoothing)
        if reason := stopping.reason(config, number * seconds):
            return number, reason
    return len(values), None


def test_patience_counts_evaluations_since_the_best():
    number, reason = feed([5.0, 4.0, 4.2, 4.1, 4.3, 4.4], TrainConfig(patience=3))

    assert number == 5
    assert reason == (
        "no better validation NLL in 3 evaluations (best 4.0000 nats at evaluation 2)"
    )


def test_patience_of_zero_never_stops():
    assert feed([4.0] * 500, TrainConfig(patience=0))[1] is None


def test_a_falling_loss_is_not_stopped_by_its_rate():
    values = [10 - 0.1 * n for n in range(60)]

    assert feed(values, TrainConfig(patience=0, min_rate=0.05))[1] is None


def test_a_loss_that_levels_out_is_stopped_by_its_rate():
    values = [4 + 2 * 0.7**n for n in range(200)]

    number, reason = feed(values, TrainConfig(patience=0, min_rate=1e-3))

    assert 10 < number < 60
    assert "nats per epoch, less than min_rate = 0.001" in reason


def test_noise_on_a_falling_loss_does_not_stop_it():
    values = [6 - 0.02 * n + 0.02 * (-1) ** n for n in range(100)]

    assert feed(values, TrainConfig(patience=0, min_rate=0.005))[1] is None


def test_the_rate_is_that_of_the_loss_per_unit_once_the_smoothing_has_settled():
    stopping = Stopping()
    for n in range(100):
        stopping.add(10 - 0.06 * n, units=2.0, smoothing=0.8)

    assert stopping.rate == pytest.approx(0.03, rel=1e-6)


def test_the_time_budget_ends_a_training():
    number, reason = feed([5.0 - n for n in range(9)], TrainConfig(max_minutes=0.1), seconds=2.0)

    assert number == 3
    assert reason == "the time budget of 0.1 minutes is spent"


def test_a_stored_state_goes_on_as_the_unbroken_one():
    config = TrainConfig()
    whole = Stopping()
    for value in (5.0, 4.0, 4.5):
        whole.add(value, units=1.0, smoothing=config.rate_smoothing)
    restored = Stopping(**whole.state())

    assert restored.add(3.9, units=1.0, smoothing=0.8) == whole.add(3.9, units=1.0, smoothing=0.8)
    assert restored == whole
