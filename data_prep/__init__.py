"""Simulation tables -> prepared Parquet -> batches. Knows numpy and pyarrow; no torch, no Optuna."""
