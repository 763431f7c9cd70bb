"""Checks of machine, data, database and cluster before workers start."""
