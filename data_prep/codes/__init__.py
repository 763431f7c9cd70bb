"""The layouts of the codes of population synthesis: which rows of their tables are mergers."""
