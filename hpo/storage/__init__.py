"""The SQL database of the studies: address, opening, retries, version."""
