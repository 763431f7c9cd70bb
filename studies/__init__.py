"""The shipped studies: TOML files only."""
