"""A study: its file, its search space, its Optuna study."""
