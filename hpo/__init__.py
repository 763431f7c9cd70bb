"""The search: studies, trials, workers, records, and the `hpo` command."""
