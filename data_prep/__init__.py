"""Simulation tables -> prepared Parquet -> batches. Knows numpy, pyarrow; no torch, no Optuna."""
