"""A PostgreSQL of the user's own, which needs no administrator: started, stopped, copied."""
