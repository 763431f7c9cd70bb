"""Runs compared: their rows and their figures."""
