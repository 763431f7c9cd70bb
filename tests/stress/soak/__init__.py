"""A long run of the real thing under random kills and restarts of its database: `make soak`."""
