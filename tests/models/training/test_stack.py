"""Trainings that take their steps together come to what each would by itself."""

import gc
import math
import signal
import threading
import time
import weakref
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from models.config import OF_EACH, OF_STACK, FlowConfig, TrainConfig
from models.flow.mixture import fused
from models.training import train as training
from models.training.stack import meeting
from models.training.stack.meeting import Meeting
from models.training.stack.stack import Stack
from models.training.train import NonFiniteLoss, train

FLOW = FlowConfig(components=4, base_hidden=8, base_depth=1, hidden=6)
CONFIG = TrainConfig(epochs=2, batch_size=600, learning_rate=1e-2, device="cpu")
SIZES = [
    {},
    {"components": 3, "base_hidden": 5, "smallest_width": 0.8, "bins": 3},
    {"components": 6, "hidden": 4, "smallest_width": 0.3, "bins": 7},
]
SETTINGS = [
    {"seed": 1, "ema": 0.9, "decay_rows": 400.0},
    {"seed": 2, "ema": 0.0, "learning_rate": 3e-3, "schedule": "plateau"},
    {"seed": 3, "clip_norm": 0.3, "weight_decay": 0.1, "warmup": 0.3},
]


class AllAtOnce(Meeting):
    """All trainings have joined before the first step is taken."""

    def __init__(self, size, **options):
        super().__init__(size=size, **options)
        self.barrier = threading.Barrier(size)

    @contextmanager
    def joined(self, shape):
        with super().joined(shape):
            self.barrier.wait(60)
            yield


@pytest.fixture
def stacks(monkeypatch):
    """The sizes of the stacks that took steps."""
    sizes, take = [], Stack.train

    def counted(self, *arguments):
        sizes.append(len(self.members))
        return take(self, *arguments)

    monkeypatch.setattr(Stack, "train", counted)
    return sizes


def trained(folder, pairs, threads=1, **options):
    """The outcome of each training, or its error; all take their steps with the others."""
    met = AllAtOnce(len(pairs), threads=threads)

    def one(pair):
        try:
            return train(folder, *pair, meeting=met, **options)
        except NonFiniteLoss as error:
            return error

    return met.run([partial(one, pair) for pair in pairs])


def agree(one, other):
    """Whether two trainings came to the same, to the accuracy of float32."""
    flow, fit = one
    for row, same in zip(fit.history, other[1].history, strict=True):
        assert row.train_nll == pytest.approx(same.train_nll, abs=2e-5)
        assert row.val_nll == pytest.approx(same.val_nll, abs=2e-5)
        assert row.learning_rate == same.learning_rate
    for tensor, same in zip(
        flow.state_dict().values(), other[0].state_dict().values(), strict=True
    ):
        torch.testing.assert_close(tensor, same, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"blocks": 1, "kind": "affine", "depth": 1},
        {"blocks": 2, "base": "normal", "bins": 4, "residual": True, "activation": "tanh"},
    ],
    ids=["mixture", "affine", "splines"],
)
@pytest.mark.parametrize("extra", [{}, {"jitter": 0.6, "bag": True}], ids=["plain", "moved bags"])
def test_a_training_in_a_stack_comes_to_what_it_would_alone(
    prepared, stacks, monkeypatch, shape, extra
):
    if extra:  # rows of flows with other numbers of components go through apart
        monkeypatch.setattr(fused, "FILLED", 0)
    flow = replace(FLOW, **shape)
    pairs = [
        (replace(flow, **size), replace(CONFIG, **settings, **extra))
        for size, settings in zip(SIZES, SETTINGS, strict=True)
    ]

    outcomes = trained(prepared, pairs)

    assert stacks == [3, 3]
    for pair, outcome in zip(pairs, outcomes, strict=True):
        agree(outcome, train(prepared, *pair))


def test_weighted_rows_and_held_out_cells_are_those_of_a_training_alone(weighted, stacks):
    held = [{"Z": 0.0001, "alpha": 1.0}]
    pairs = [(FLOW, replace(CONFIG, **settings)) for settings in SETTINGS]

    outcomes = trained(weighted, pairs, hold_out=held)

    assert stacks == [3, 3]
    for pair, outcome in zip(pairs, outcomes, strict=True):
        agree(outcome, train(weighted, *pair, hold_out=held))
        assert math.isfinite(outcome[1].best.held_out_nll)


@pytest.mark.parametrize(
    ("kind", "batch_size"),
    [
        ("spline", 300),
        ("affine", 2000),  # so many rows of each condition that products spread values to them
    ],
)
def test_a_training_that_is_no_number_any_more_ends_alone(
    prepared, stacks, monkeypatch, kind, batch_size
):
    build = training.build

    def built(*arguments, seed):
        flow = build(*arguments, seed=seed)
        if seed == 4:
            next(flow.parameters()).data.fill_(math.nan)
        return flow

    monkeypatch.setattr(training, "build", built)
    flow, config = replace(FLOW, blocks=1, kind=kind), replace(CONFIG, batch_size=batch_size)
    pairs = [(flow, replace(config, seed=seed)) for seed in (1, 4)]
    with pytest.raises(NonFiniteLoss) as alone:
        train(prepared, *pairs[1])

    fine, failed = trained(prepared, pairs)

    assert isinstance(failed, NonFiniteLoss)
    assert str(failed) == str(alone.value)
    assert stacks == [2]
    agree(fine, train(prepared, *pairs[0]))


class Killed(Exception):
    """Stands for whatever ends a training from outside."""


def test_trainings_join_where_they_are_and_go_on_alone(prepared, stacks, tmp_path):
    """One was broken off after its first epoch; both meet, whichever epochs they are in."""
    long, short = replace(CONFIG, seed=1, epochs=4), replace(CONFIG, seed=2)

    def kill(epoch):
        raise Killed

    with pytest.raises(Killed):
        train(prepared, FLOW, long, checkpoint=tmp_path, on_epoch=kill)
    met = AllAtOnce(2)
    options = {"checkpoint": tmp_path, "meeting": met}
    outcomes = met.run(
        [
            partial(train, prepared, FLOW, long, **options),
            partial(train, prepared, FLOW, short, meeting=met),
        ]
    )

    assert stacks == [2, 2]  # and the last epoch of the longer one alone
    agree(outcomes[0], train(prepared, FLOW, long))
    agree(outcomes[1], train(prepared, FLOW, short))


@pytest.mark.parametrize(
    ("flow", "config"),
    [
        ({"blocks": 1, "conditioner": "masked"}, {}),
        ({"blocks": 1, "normalise": True}, {}),
        ({}, {"max_minutes": 5.0, "schedule": "constant", "warmup": 0.0}),
        ({}, {"memory_mb": 0.0}),
    ],
)
def test_what_no_stack_can_train_is_trained_alone(prepared, stacks, flow, config):
    config = replace(CONFIG, epochs=1, batch_size=1500, **config)
    pairs = [(replace(FLOW, **flow), replace(config, seed=seed)) for seed in (1, 2)]

    outcomes = trained(prepared, pairs)

    assert stacks == []
    for pair, (made, fit) in zip(pairs, outcomes, strict=True):
        alone, same = train(prepared, *pair)
        assert [row.val_nll for row in fit.history] == [row.val_nll for row in same.history]
        assert all(map(torch.equal, made.state_dict().values(), alone.state_dict().values()))


def test_what_the_trainings_of_a_stack_have_in_common_is_what_is_named(prepared):
    member = training._Training(prepared, FLOW, CONFIG)._member(1)
    shape = member.shape()
    others = {
        "kind": "affine",
        "coordinates": "log",
        "conditioner": "masked",
        "activation": "relu",
        "smallest_width": 0.1,
    }

    for option, value in asdict(FLOW).items():
        other = not value if isinstance(value, bool) else others.get(option, 3)
        changed = {"base": "normal", "blocks": 1} if option == "base" else {option: other}
        member.flow.config = replace(FLOW, **changed)
        assert (member.shape() != shape) == (option in OF_STACK) == (option not in OF_EACH), option
    member.flow.config = FLOW
    for option, value in {"batch_size": 2, "tf32": True, "ema": 0.5, "seed": 7}.items():
        other = replace(member, config=replace(CONFIG, **{option: value}))
        assert (other.shape() != shape) == (option in OF_STACK), option


def test_trainings_of_other_shapes_do_not_wait_for_each_other(prepared, stacks):
    config = replace(CONFIG, epochs=1)
    pairs = [
        (FLOW, config),
        (FLOW, replace(config, batch_size=301)),
        (replace(FLOW, blocks=1), config),
    ]

    outcomes = trained(prepared, pairs)

    assert stacks == []
    assert all(len(fit.history) == 1 for _, fit in outcomes)


@pytest.mark.parametrize(("batches", "threads", "sizes"), [(2, 1, [2, 2]), (5, 2, [3, 2])])
def test_on_a_processor_stacks_are_of_few_rows_and_leave_no_thread_idle(
    prepared, stacks, monkeypatch, batches, threads, sizes
):
    monkeypatch.setattr(meeting, "CPU_ROWS", batches * CONFIG.batch_size)
    pairs = [(FLOW, replace(CONFIG, epochs=1, seed=seed)) for seed in range(5)]

    trained(prepared, pairs, threads)

    assert sorted(stacks, reverse=True) == sizes


def test_on_a_processor_large_flows_and_small_ones_are_apart(prepared, stacks, monkeypatch):
    monkeypatch.setattr(meeting, "FILLED", 100)
    flows = [replace(FLOW, base_hidden=hidden) for hidden in (8, 40, 9, 41)]
    config = replace(CONFIG, epochs=1, batch_size=2000)

    outcomes = trained(prepared, [(flow, config) for flow in flows])

    assert stacks == [2, 2]
    for flow, outcome in zip(flows, outcomes, strict=True):
        assert outcome[0].config == flow
        agree(outcome, train(prepared, flow, config))


def test_an_error_in_one_breaks_off_the_others_wherever_they_are(prepared):
    """In a stack, alone, and on the way to the next steps."""

    class Told(KeyboardInterrupt):
        pass

    others, told = threading.Semaphore(0), []

    def endless(met, **options):
        config = replace(CONFIG, epochs=100_000, patience=0, **options)
        try:
            train(prepared, FLOW, config, meeting=met, on_epoch=lambda _: others.release())
        except Told as error:
            told.append(str(error))
            raise

    def failing():
        for _ in range(3):
            others.acquire(timeout=60)
        raise ValueError("of a disk")

    met = Meeting(size=4)
    settings = [{"seed": 1}, {"seed": 2}, {"batch_size": 200}]
    with pytest.raises(ValueError, match="of a disk"):
        met.run(
            [failing, *(partial(endless, met, **each) for each in settings)],
            broken_by=lambda error: partial(Told, f"broken off {error}"),
        )

    assert told == ["broken off of a disk"] * 3


def test_all_have_ended_when_one_fails_though_it_is_told_to_end_meanwhile():
    """By Ctrl-C, while it waits for the others."""
    began, ended = threading.Event(), []

    def fails():
        assert began.wait(30)
        raise RuntimeError("a disk is gone")

    def evaluates():
        began.set()
        time.sleep(0.6)
        ended.append(True)

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(RuntimeError, match="a disk is gone"):
            Meeting(size=2).run([fails, evaluates])
        assert ended
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_memory_of_stacks_that_rest_is_freed_before_a_training_fails_for_want_of_it():
    met = Meeting(size=1)
    met._stacks["another shape", frozenset()] = object()

    def takes():
        if met._stacks:
            raise torch.OutOfMemoryError("no memory")
        return "taken"

    member = SimpleNamespace(device=torch.device("cpu"), alone=takes)
    outcome = Future()
    met._take("shape", [(member, outcome)])
    assert outcome.result(0) == "taken"


def test_a_stack_too_large_for_the_device_is_halved(prepared, stacks, monkeypatch):
    """Nothing of it is left by then, and none as large is tried again."""
    take, left = Stack.train, []

    def short_of_memory(self, *arguments):
        if len(self.members) > 2:
            left.append(weakref.ref(self))
            raise torch.OutOfMemoryError("no memory")
        assert [one() for one in left] == [None]
        return take(self, *arguments)

    monkeypatch.setattr(Stack, "train", short_of_memory)
    pairs = [(FLOW, replace(CONFIG, seed=seed)) for seed in range(4)]

    gc.disable()  # which would come at any time, or none
    try:
        outcomes = trained(prepared, pairs)
    finally:
        gc.enable()

    assert stacks == [2, 2, 2, 2]
    agree(outcomes[3], train(prepared, *pairs[3]))
