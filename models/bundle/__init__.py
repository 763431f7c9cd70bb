"""The emulator as it is shipped: its files, its card, its use with torch."""
