"""The names of columns: what they mean, and which of them are meant."""
