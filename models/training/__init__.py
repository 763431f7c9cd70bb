"""Fitting a flow to a prepared dataset."""
