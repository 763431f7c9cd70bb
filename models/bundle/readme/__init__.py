"""The README.md of a bundle, and values of any type as Markdown."""
