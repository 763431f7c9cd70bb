"""The dashboard's views: each gives a layout and registers what happens on it."""
