"""How good an emulator is, measured on held-out data."""
