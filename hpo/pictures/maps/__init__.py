"""The pictures with one field for each cell: errors and divergences."""
