"""The SQL database of the studies: its address, its opening, its repair."""
