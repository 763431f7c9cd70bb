"""Population inference with an emulator: densities and likelihoods."""
