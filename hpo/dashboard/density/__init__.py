"""Densities of a run's flow beside the data: numbers and figures."""
