"""The emulator without torch: plain array operations of numpy, cupy or JAX."""
