"""How numbers are told to people."""
