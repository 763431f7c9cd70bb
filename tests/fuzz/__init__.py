"""Hostile and broken input, made by hypothesis: one sentence and exit code 2, or it is used."""
