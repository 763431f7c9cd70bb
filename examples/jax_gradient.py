"""The most likely conditions of a catalogue, by following the gradient with JAX.

    python examples/jax_gradient.py EMULATOR

Needs `pip install jax`. The same compiled function with its gradient serves NUTS, in NumPyro or
BlackJAX.
"""

import sys

import jax
import mock_catalog
import numpy as np

from models import ArrayFlow, CatalogLikelihood, PopulationModel


def main(folder: str, steps: int = 40) -> None:
    jax.config.update("jax_enable_x64", True)
    flow = ArrayFlow.load(folder)
    catalog = mock_catalog.make(flow)
    likelihood = CatalogLikelihood(
        PopulationModel(flow),
        catalog.events,
        catalog.injections,
        drawn=catalog.drawn,
        largest_variance=np.inf,
    )
    low, high = np.log([flow.domain[name] for name in likelihood.names]).T

    def cost(unit):
        """-ln L where each condition lies so far along its range, in the logarithm."""
        return -likelihood.log_likelihood(jax.numpy.exp(low + (high - low) * unit))

    value_and_gradient = jax.jit(jax.value_and_grad(cost))
    place = np.full(len(low), 0.3)
    for step in range(steps):
        value, gradient = value_and_gradient(place)
        if step % 10 == 0:
            print(f"step {step}: ln L = {-value:.3f}")
        # Steps of a length of their own that shrinks, as gradients differ much in size.
        length = 0.1 / (1 + step / 5)
        direction = np.asarray(gradient) / (np.linalg.norm(gradient) + 1e-12)
        place = np.clip(place - length * direction, 0.0, 1.0)

    best = np.exp(low + (high - low) * place)
    for name, value in zip(likelihood.names, best, strict=True):
        print(f"{name} = {value:.4g}, truth {catalog.truth[name]:.4g}")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
