"""SLURM: its commands, and what a job asks of it."""
