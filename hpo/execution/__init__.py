"""A study at work: launch, workers, trials."""
