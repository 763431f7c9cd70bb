"""What trainings do on a GPU, on a processor: its paths, played from a tape for want of graphs.

The device `meta` has shapes and no numbers: what runs there looks at none, and so waits for none.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

from models.config import FlowConfig, TrainConfig
from models.training import arithmetic, loss
from models.training import train as training
from models.training.loss import tensors_of
from models.training.stack import recording
from models.training.stack.rows import Held
from models.training.stack.stack import Stack, Sums
from models.training.train import train
from tests.models.training.test_stack import AllAtOnce

FLOW = FlowConfig(components=4, base_hidden=8, base_depth=1, blocks=1, hidden=6, bins=4)
CONFIG = TrainConfig(epochs=2, batch_size=1200, learning_rate=1e-2, jitter=0.6, device="cpu")
META = torch.device("meta")


class Tape(TorchDispatchMode):
    """The operations of a function and the memory that they read and write, as a graph has them."""

    def __init__(self):
        super().__init__()
        self.taken, self.before = [], []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        written = [
            kwargs.get(one.name, args[place] if place < len(args) else None)
            for place, one in enumerate(operation._schema.arguments)
            if one.alias_info is not None and one.alias_info.is_write
        ]
        self.before += [(one, one.clone()) for one in written]
        found = operation(*args, **kwargs)
        own = not any(one.alias_info is not None for one in operation._schema.returns)
        self.taken.append((operation, args, kwargs, found if own else None))
        return found

    @torch.no_grad()
    def rewind(self):
        """A graph's recording does nothing."""
        for one, stood in reversed(self.before):
            one.copy_(stood)

    @torch.no_grad()
    def play(self):
        for operation, args, kwargs, memory in self.taken:
            found = operation(*args, **kwargs)
            if memory is not None:
                for one, same in zip(tree_iter(memory), tree_iter(found), strict=True):
                    one.copy_(same)


class Graphs:
    """Stands for CUDA's: of two recordings at once both would fail."""

    def __init__(self, monkeypatch, refused=None):
        self.recording, self.refused = [], refused
        self.replay = partial(self.recording.append, "played")
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: self)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _: None)
        monkeypatch.setattr(torch.cuda, "graph", self.graph)

    @contextmanager
    def graph(self, _, **options):
        assert not self.recording
        self.recording.append(1)
        time.sleep(0.05)
        yield
        self.recording.pop()
        if self.refused:
            raise self.refused


def test_steps_of_two_stacks_are_not_recorded_at_once(monkeypatch):
    graphs = Graphs(monkeypatch)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(recording.record, list, torch.device("cuda")) for _ in range(2)]
        assert [one.result() for one in both] == [graphs.replay] * 2


def test_steps_that_a_gpu_cannot_record_are_taken_as_they_are(monkeypatch, caplog):
    Graphs(monkeypatch, RuntimeError("operation not permitted"))
    assert recording.record(list, torch.device("cuda")) is list
    assert "operation not permitted" in caplog.text

    Graphs(monkeypatch, torch.OutOfMemoryError("no memory"))
    with pytest.raises(torch.OutOfMemoryError):
        recording.record(list, torch.device("cuda"))


@pytest.fixture
def tapes(monkeypatch):
    """On a processor as on a GPU; the tapes that were made."""
    made = []

    def record(function, device):
        with Tape() as tape:
            function()
        tape.rewind()
        made.append(tape)
        return tape.play

    monkeypatch.setattr(arithmetic, "FUSED_ON", frozenset())
    monkeypatch.setattr(recording, "record", record)
    return made


SETTINGS = [{"seed": 1}, {"seed": 2, "clip_norm": 0.3}, {"seed": 3, "jitter": 0.0}]
SIZES = [{}, {"hidden": 4, "components": 3, "bins": 3}, {"smallest_width": 0.3, "bins": 7}]


def agree(fits, others):
    for fit, same in zip(fits, others, strict=True):
        for row, wanted in zip(fit.history, same.history, strict=True):
            assert row.train_nll == pytest.approx(wanted.train_nll, abs=2e-5)
            assert row.val_nll == pytest.approx(wanted.val_nll, abs=2e-5)


def test_steps_that_are_played_come_to_those_of_a_processor(weighted, tapes, monkeypatch):
    """Together, where one rests while others take more steps, and alone. They evaluate in turn."""
    pairs = [
        (replace(FLOW, **size), replace(CONFIG, bag=True, **settings))
        for size, settings in zip(SIZES, SETTINGS, strict=True)
    ]
    with monkeypatch.context() as patch:
        patch.setattr(arithmetic, "FUSED_ON", frozenset({"cpu"}))
        wanted = [train(weighted, *pair)[1] for pair in pairs]

    at_once, counts, evaluate = [], [], loss._Replica.nll

    def counted(self, parts):
        at_once.append(1)
        counts.append(len(at_once))
        found = evaluate(self, parts)
        at_once.pop()
        return found

    monkeypatch.setattr(loss._Replica, "nll", counted)
    met = AllAtOnce(3)
    together = met.run([partial(train, weighted, *pair, meeting=met) for pair in pairs])
    of_stacks = len(tapes)
    alone = train(weighted, *pairs[0])[1]

    agree([fit for _, fit in together], wanted)
    agree([alone], wanted[:1])
    assert set(counts) == {1}
    assert (of_stacks, len(tapes)) == (1, 2)  # for both epochs


def test_a_stream_to_a_gpu_comes_to_that_of_a_processor(weighted, monkeypatch):
    config = replace(CONFIG, memory_mb=0.0)
    wanted = train(weighted, FLOW, config)[1]
    monkeypatch.setattr(arithmetic, "FUSED_ON", frozenset())
    monkeypatch.setattr(loss, "DEVICE_ROWS", 128)

    agree([train(weighted, FLOW, config)[1]], [wanted])


def of(folder, flow=FLOW, **options):
    return training._Training(folder, flow, replace(CONFIG, **options))


def told(stack):
    """What the host tells of a step, on the device."""
    settings = torch.tensor(stack._settings(0))
    given = settings, torch.zeros(1, dtype=torch.int32), *stack.rows.tell(0)[0]
    return [one.to(META) for one in given]


def moved_to_meta(one):
    """An object without the numbers of its tensors."""
    for name, value in vars(one).items():
        setattr(one, name, tree_map(lambda x: x.to(META) if torch.is_tensor(x) else x, value))


def test_a_step_of_a_stack_looks_at_no_number(weighted, tapes, monkeypatch):
    """What does, or what takes one from the host, is refused."""
    members = [of(weighted, replace(FLOW, **size))._member(3) for size in SIZES[1:]]
    stack = Stack(members, Held(members))
    given = told(stack)
    modules = [*stack.flow.modules(), *stack.rows._standardise.modules()]
    for part in (stack, stack.rows, stack.rows._held, *modules):
        moved_to_meta(part)
    stack.places.share(stack.whole["value"])
    stack.sums = Sums.none(2, META)
    backward = stack._backward

    stack.step(*given)

    for wrong in (lambda x: x * x.max().item(), lambda x: x + torch.ones(2)):
        monkeypatch.setattr(stack, "_backward", lambda step, wrong=wrong: wrong(backward(step)))
        with pytest.raises(RuntimeError, match="meta"):
            stack.step(*given)


@pytest.mark.parametrize("normalise", [False, True])
def test_a_step_of_a_stream_and_an_evaluation_look_at_no_number(weighted, monkeypatch, normalise):
    state = of(weighted, replace(FLOW, normalise=normalise))
    batch = tensors_of(next(iter(state.stream.epoch(0))), state.mean_weight)
    state.flow.to(META)
    gradients = [torch.zeros_like(one, device=META) for one in state.optimizer.gradients]
    monkeypatch.setattr(arithmetic, "FUSED_ON", frozenset())
    lost = loss.BatchLoss(state.flow, gradients, batch_size=300)

    assert lost.backward(*batch, partial(state.jitter, step=0)).device == META
    (parts, _), *_ = lost._evaluated(state.validation, state.mean_weight)
    assert lost._shared(loss._Replica.nll, parts).device == META


class Waits(TorchDispatchMode):
    """Counts what a device would be waited for."""

    ASKED = ("_local_scalar_dense", "nonzero", "unique", "equal", "masked_select", "is_nonzero")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += any(one in operation.__name__ for one in self.ASKED)
        return operation(*args, **kwargs or {})


@pytest.mark.parametrize("memory_mb", [0.0, 512.0], ids=["streamed", "held"])
def test_more_steps_are_not_waited_for_more_often(prepared, tapes, memory_mb):
    """A processor's own numbers, as of conditions that move, cannot be told from a device's."""
    state = of(prepared, jitter=0.0, memory_mb=memory_mb)
    counts = []
    with state._joined():
        for steps in (1, 1, 3):
            with Waits() as waits:
                state._take(steps)
            counts.append(waits.count)

    assert counts[2] == counts[1]
