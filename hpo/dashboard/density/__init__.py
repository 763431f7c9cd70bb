"""What a run's flow draws beside the data: numbers and figures."""
