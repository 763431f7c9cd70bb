"""The ways in which tables come in: file formats, and the layouts of codes."""
