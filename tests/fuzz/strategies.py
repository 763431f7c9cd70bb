"""What the fuzz tests share: how long they search, how input is broken, what memory is allowed.

Every test runs some dozens of examples, the same each time. To hunt for defects instead, give the
factor by which there shall be more, which also makes them random:

    HPO_FUZZ=50 pytest tests/fuzz

What it finds is kept in `.hypothesis`; put it into the test as an `@example`.
"""

import contextlib
import os
import resource
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from data_prep.errors import InputError

FACTOR = int(os.environ.get("HPO_FUZZ", "1"))

HOSTILE_TEXTS = (
    "",
    " ",
    "\x00",
    "\x1b[2J\x1b]0;gone\x07",
    "a\nb",
    "\ud800",
    "ʼn\u202e\ufeff",
    "../../etc/passwd",
    "/dev/zero",
    "$(touch broken)`touch broken`;touch broken",
    "'\"; touch broken #",
    "<script>alert(1)</script>",
    "$\\frac{$",
    "{0.__class__}%s%n",
    "__class__",
    "seed",
    "x" * 10_000,
)
"""What has broken programs before."""
HUGE = (10**5, 2**31, 2**63, 10**18, 10**400, -(10**400))

texts = st.one_of(st.sampled_from(HOSTILE_TEXTS), st.text(max_size=30))
numbers = st.one_of(
    st.sampled_from((*HUGE, 0, -1, 1e308, -1e308, 5e-324)),
    st.integers(-(2**70), 2**70),
    st.floats(),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
"""Anything that JSON can say, and some that it cannot."""


def fuzz(examples, **options):
    """The settings of a fuzz test of so many examples."""
    return settings(
        max_examples=examples * FACTOR,
        deadline=None,
        derandomize=FACTOR == 1,
        database=None if FACTOR == 1 else settings.default.database,
        suppress_health_check=list(HealthCheck),
        phases=[phase for phase in Phase if phase is not Phase.explain],
        **options,
    )


@st.composite
def broken(draw, document, most=3):
    """A copy of a JSON document with one to `most` places changed, removed or doubled."""
    document = _copied(document)
    for _ in range(draw(st.integers(1, most))):
        holder, key = draw(st.sampled_from(list(_places(document)) or [(None, None)]))
        if holder is None:
            return draw(values)
        action = draw(st.sampled_from(("change", "change", "remove", "add")))
        if action == "remove":
            del holder[key]
        elif action == "change":
            holder[key] = draw(values)
        elif isinstance(holder, dict):
            holder[draw(texts)] = draw(values)
        else:
            holder.insert(key, draw(st.sampled_from(holder) | values))
    return document


@st.composite
def damaged(draw, content, most=4):
    """Bytes with some flipped, cut out, doubled or put in."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, most))):
        at = draw(st.integers(0, len(data)))
        action = draw(st.sampled_from(("flip", "flip", "flip", "cut", "insert", "truncate")))
        if action == "flip" and at < len(data):
            data[at] ^= draw(st.integers(1, 255))
        elif action == "cut":
            del data[at : at + draw(st.integers(1, 64))]
        elif action == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=16))
        elif action == "truncate":
            del data[at:]
    return bytes(data)


def answer(function, *arguments, **options):
    """What a function gives back, or None where it refuses in a clear sentence.

    An error of another kind is a defect, and so is a sentence that nobody can read, or one that
    tells of memory: it was taken before the refusal.
    """
    try:
        return function(*arguments, **options)
    except InputError as error:
        sentence = str(error)
    assert 0 < len(sentence) < 1_000_000
    assert "alloc" not in sentence
    return None


@contextlib.contextmanager
def memory(megabytes):
    """No more address space in here than so much above what is taken: beyond, a MemoryError."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + megabytes * 2**20, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _places(value):
    """Every place of a document, as its holder and the key in it."""
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    for key in list(keys):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from _places(value[key])


def _copied(value):
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list) else value
