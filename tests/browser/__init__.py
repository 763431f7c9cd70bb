"""Tests in a real browser, of the real dashboard on a study that was really run."""
