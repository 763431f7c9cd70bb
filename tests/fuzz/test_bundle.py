"""Bundles from a stranger: whoever made one knew how to write its sha256, too."""

import hashlib
import json
import os
import struct

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_prep.errors import InputError
from hpo.pictures import likelihood
from models import Emulator
from models.arrays.flow import ArrayFlow
from tests.fuzz.strategies import answer, broken, damaged, fuzz, memory, values
from tests.random_flows import a_flow, a_mixed_flow

CARD, WEIGHTS = "emulator.json", "weights.safetensors"
CONFIG = {"blocks": 2, "hidden": 6, "depth": 1, "bins": 4, "normalise": True}
READERS = [Emulator.load, ArrayFlow.load]


def of_flow(flow):
    emulator = Emulator(flow)
    state = {name: value.numpy() for name, value in emulator.module.state_dict().items()}
    return json.loads(json.dumps(emulator.card)), state


CARD_OF, STATE = of_flow(a_flow(options=CONFIG))
MASKED = CONFIG | {"conditioner": "masked", "kind": "affine"}
MASKED_CARD, MASKED_STATE = of_flow(a_flow(options=MASKED))
MIXED_CARD, MIXED_STATE = of_flow(a_mixed_flow(**CONFIG).requires_grad_(False))


def packed(state, header=None):
    """A safetensors file by hand; `header` changes what it claims."""
    claims, content = {}, b""
    names = {"float32": "F32", "bool": "BOOL", "int64": "I64"}
    for name, value in state.items():
        raw = np.ascontiguousarray(value).tobytes()
        claims[name] = {
            "dtype": names[str(value.dtype)],
            "shape": list(value.shape),
            "data_offsets": [len(content), len(content) + len(raw)],
        }
        content += raw
    text = json.dumps(header(claims) if header else claims).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + content


WEIGHTS_OF = packed(STATE)


def forged(folder, card, weights=WEIGHTS_OF, **others):
    """A bundle whose card names the sha256 of what is in it, if it has any place for that."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {WEIGHTS: weights, **others}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    if isinstance(card, dict) and isinstance(card.get("files"), dict):
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        card = {**card, "files": {**card["files"], **digests}}
    text = card if isinstance(card, bytes) else json.dumps(card).encode("utf-8", "surrogatepass")
    (folder / CARD).write_bytes(text)
    return folder


def used_or_refused(folder, megabytes=256):
    """Both readers say one clear sentence, or the emulator works; whether both take it."""
    taken = True
    for reader in READERS:
        with memory(megabytes):
            flow = answer(reader, folder)
        taken &= flow is not None
        if flow is None:
            continue
        at = {name: ends[0] for name, ends in flow.domain.items()} | {"on_extrapolation": "ignore"}
        events = np.ones((2, len(flow.event_columns)))
        with np.errstate(all="ignore"):
            assert flow.log_prob(events, **at).shape == (2,)
            if isinstance(flow, Emulator):
                assert flow.sample(5, seed=1, **at).shape == (5, events.shape[1])
            rate = answer(lambda flow=flow, at=at: flow.efficiency(**at))
            assert rate is None or rate >= 0
    return taken


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("stranger") / "emulator"


def with_config(**config):
    card = json.loads(json.dumps(CARD_OF))
    card["architecture"]["config"] |= config
    return card


def with_efficiency(**cell):
    one = {"conditions": [0.001, 1.0], "simulated": 1e6, "mergers": 10} | cell
    return {**CARD_OF, "efficiency": {"unit": "binaries", "cells": [one]}}


@pytest.mark.slow
@fuzz(100)
@given(card=broken(with_efficiency()))
@example(with_config(hidden=8192, depth=10, blocks=100))
@example(with_config(hidden=10**9))
@example(with_config(blocks=10**9))
@example(with_config(bins=10**400))
@example(with_config(conditioner="masked", hidden=1))
@example({**CARD_OF, "architecture": {"members": [CARD_OF["architecture"]] * 10_000}})
@example({**CARD_OF, "architecture": {"members": 10**9}})
@example({**CARD_OF, "provenance": [1]})
@example(with_efficiency(mergers=10**400))
@example(with_efficiency(simulated=10**400, mergers=10**300))
@example(with_efficiency(simulated=1e-300, conditions=[1e-300, 1e300]))
def test_a_broken_card(folder, card):
    used_or_refused(forged(folder, card))


@fuzz(60)
@given(card=broken(MASKED_CARD))
def test_a_broken_card_of_a_masked_flow(folder, card):
    used_or_refused(forged(folder, card, packed(MASKED_STATE)))


def with_patterns(patterns, **column):
    card = json.loads(json.dumps(MIXED_CARD))
    card["architecture"]["patterns"] = patterns
    card["architecture"]["event_columns"][0] |= column
    return card


@fuzz(60)
@given(card=broken(MIXED_CARD))
@example(with_patterns([[None] * 3] * 100_000))
@example(with_patterns([[n, None, None] for n in range(20_000)], atoms=list(range(20_000))))
@example(with_patterns([[[]], None, 10**400]))
@example(with_patterns([[0.0, None, 1.0]], atoms=[0.0, 1e-50, True]))
def test_a_broken_card_of_a_flow_with_atoms(folder, card):
    used_or_refused(forged(folder, card, packed(MIXED_STATE)))


@fuzz(60)
@given(text=damaged(json.dumps(CARD_OF).encode()) | st.binary(max_size=40))
@example(b"[" * 100_000)
@example(b'{"format":' * 5_000)
@example(b'{"format": 1, "format": 1, "files": {}}')
@example(b'{"format": ' + b"1" * 100_000 + b', "files": {}}')
@example(b'{"format": NaN, "files": {}}')
@example(b'{"format": 1e999, "files": {}}')
@example("\ufeff{}".encode())
@example("{}".encode("utf-16"))
def test_a_damaged_card(folder, text):
    used_or_refused(forged(folder, text))


def changed_domain(value):
    card = json.loads(json.dumps(CARD_OF))
    card["architecture"]["domain"]["Z"] = value
    return card


@pytest.mark.parametrize("limits", [[float("nan"), 1], [2, 1], [1], [1, 10**400], ["0", "1"], None])
def test_a_domain_that_is_no_range_is_refused(tmp_path, limits):
    folder = forged(tmp_path / "bundle", changed_domain(limits))
    for reader in READERS:
        with pytest.raises(InputError, match="cannot be read|does not fit"):
            reader(folder)


def columns(count):
    card = json.loads(json.dumps(CARD_OF))
    event = card["architecture"]["event_columns"][0]
    card["architecture"]["event_columns"] = [{**event, "name": f"m{k}"} for k in range(count)]
    return card


def test_more_columns_than_the_weights_have_are_refused_at_once(tmp_path):
    used_or_refused(forged(tmp_path / "bundle", columns(100_000)), megabytes=512)


@fuzz(80)
@given(data=st.data())
def test_broken_weights(folder, data):
    """The header of a safetensors file claims other names, shapes, types and places."""
    weights = packed(STATE, lambda claims: data.draw(broken(claims)))
    used_or_refused(forged(folder, dict(CARD_OF), weights))


@fuzz(80)
@given(weights=damaged(WEIGHTS_OF) | st.binary(max_size=100))
@example(struct.pack("<Q", 2**63) + b"{}")
@example(struct.pack("<Q", 10**8) + b"{}")
@example(struct.pack("<Q", 100_000) + b"[" * 100_000)
def test_damaged_weights(folder, weights):
    used_or_refused(forged(folder, dict(CARD_OF), weights))


@pytest.mark.parametrize("shape", [[10**15], [2**32, 2**32], [0, 2**62], [2**63 - 1], [-1]])
def test_an_array_that_claims_to_be_huge_is_refused(tmp_path, shape):
    def claimed(claims):
        claims["events.mean_K"]["shape"] = shape
        return claims

    folder = forged(tmp_path / "bundle", dict(CARD_OF), packed(STATE, claimed))
    for reader in READERS:
        with memory(256), pytest.raises(InputError, match="does not fit"):
            reader(folder)


@fuzz(30)
@given(name=st.sampled_from(sorted(STATE)), value=st.floats(width=32))
@example("events.spread_K", 0.0)
@example("events.mean_K", float("nan"))
@example("events.mean_K", float("inf"))
def test_any_numbers_in_the_weights(folder, name, value):
    weights = dict(STATE)
    with np.errstate(all="ignore"):
        weights[name] = np.full(weights[name].shape, value).astype(weights[name].dtype)
    used_or_refused(forged(folder, dict(CARD_OF), packed(weights)))


def listing(name):
    return {**CARD_OF, "files": {**CARD_OF["files"], name: "0" * 64}}


@fuzz(40)
@given(name=st.text(max_size=300) | values.filter(lambda v: isinstance(v, str)))
@example("..")
@example(".")
@example("../emulator/weights.safetensors")
@example("/dev/zero")
@example("weights.safetensors\x00")
@example("\ud800")
@example("x" * 5_000)
def test_a_file_of_any_name_is_listed(folder, name):
    folder = forged(folder, listing(name))
    used_or_refused(folder)


@pytest.mark.parametrize("name", [CARD, WEIGHTS, "README.md"])
@pytest.mark.parametrize("trick", ["fifo", "link", "device", "loop", "folder", "terabyte"])
def test_a_file_that_is_none_is_refused_at_once(tmp_path, name, trick):
    folder = forged(tmp_path / "bundle", dict(CARD_OF), **{"README.md": b"hello"})
    path = folder / name
    if trick == "link":  # its content is the right one: where it lies is what is wrong
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.unlink()
    {
        "fifo": lambda: os.mkfifo(path),
        "link": lambda: None,
        "device": lambda: path.symlink_to("/dev/zero"),
        "loop": lambda: path.symlink_to(path),
        "folder": path.mkdir,
        "terabyte": lambda: (path.touch(), os.truncate(path, 2**40)),
    }[trick]()
    with memory(256), pytest.raises(InputError):
        Emulator.load(folder)


def test_a_bundle_reached_through_a_link_is_one_all_the_same(tmp_path):
    folder = forged(tmp_path / "bundle", dict(CARD_OF))
    (tmp_path / "link").symlink_to(folder)
    for reader in READERS:
        assert reader(tmp_path / "link").condition_columns == ("Z", "alpha")


@pytest.mark.parametrize("name", ["\x1b[2J", "a\nb", "", "x" * 300, 3, "seed", "n", "events"])
def test_a_condition_that_cannot_be_called_so_is_refused(tmp_path, name):
    card = json.loads(json.dumps(CARD_OF))
    card["architecture"]["condition_columns"][0]["name"] = name
    domain = card["architecture"]["domain"]
    domain[str(name)] = domain.pop("Z")
    folder = forged(tmp_path / "bundle", card)
    for reader in READERS:
        with pytest.raises(InputError) as caught:
            reader(folder)
        assert "\x1b" not in str(caught.value)


def test_names_that_are_formulas_or_markup_are_drawn_as_text(tmp_path):
    names = {"Mass_0": r"$\frac{$<script>", "Mass_1": "__class__", "alpha": "<b>$x_{$"}
    text = json.dumps(CARD_OF)
    for name, hostile in names.items():
        text = text.replace(json.dumps(name), json.dumps(hostile))
    emulator = Emulator.load(forged(tmp_path / "bundle", json.loads(text)))

    out = tmp_path / "likelihood.svg"
    likelihood.likelihood(emulator, conditions={"Z": 0.001, "<b>$x_{$": 1.0}, out=out)

    assert "<script>" not in out.read_text()
