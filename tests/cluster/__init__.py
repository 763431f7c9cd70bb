"""Tests on a real SLURM cluster and a real PostgreSQL server, both started here, on loopback."""
