"""The file formats in which tables come in."""
