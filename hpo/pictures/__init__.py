"""The pictures that `hpo plot` draws."""
