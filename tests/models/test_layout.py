"""What a description says of a flow's weights, before the flow is made."""

from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.config import ActivationName, Base, Conditioner, Coordinates, Kind
from models.layout import Layout
from tests.random_flows import MIXTURES, a_flow

configs = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(get_args(Kind)),
        "coordinates": st.sampled_from(get_args(Coordinates)),
        "conditioner": st.sampled_from(get_args(Conditioner)),
        "activation": st.sampled_from(get_args(ActivationName)),
        "base": st.sampled_from(get_args(Base)),
        "components": st.integers(1, 4),
        "base_hidden": st.integers(1, 4),
        "base_depth": st.integers(1, 3),
        "blocks": st.integers(0, 3),
        "bins": st.integers(1, 5),
        "hidden": st.integers(3, 9),
        "depth": st.integers(1, 3),
        "normalise": st.booleans(),
    }
).filter(lambda config: config["blocks"] or config["base"] == "mixture")


@settings(deadline=None, max_examples=60)
@given(config=configs, features=st.integers(1, 3), conditions=st.integers(0, 2))
def test_it_knows_the_weights_of_any_flow(config, features, conditions):
    flow = a_flow(features, conditions, config)
    layout = Layout.of(flow.describe())

    state = flow.state_dict()
    assert dict(layout.shapes()) == {name: tuple(value.shape) for name, value in state.items()}
    layout.check(state)


def test_weights_of_another_mixture_are_refused_by_name():
    flow = a_flow(options={**MIXTURES["mixture"], "blocks": 0})
    layout = Layout.of(flow.describe())
    other = a_flow(options={**MIXTURES["mixture"], "components": 5}).state_dict()
    without = {name: value for name, value in flow.state_dict().items() if "weight.1" not in name}

    with pytest.raises(
        ValueError, match=r"network\.weight\.2 is of shape \(65, 16\), not \(52, 16\)"
    ):
        layout.check(other)
    with pytest.raises(ValueError, match=r"there is no net\._distribution\.network\.weight\.1"):
        layout.check(without)


def test_weights_of_another_flow_are_refused_by_name():
    layout, other = Layout.of(a_flow().describe()), a_flow(options={"hidden": 25}).state_dict()

    with pytest.raises(ValueError, match=r"weight\.0 is of shape \(25, 2\), not \(24, 2\)"):
        layout.check(other)
    with pytest.raises(ValueError, match="there is no events.positive_K"):
        layout.check({})
    more = a_flow().state_dict() | {"another": other["events.mean_K"]}
    with pytest.raises(ValueError, match="arrays, where the flow has"):
        layout.check(more)
