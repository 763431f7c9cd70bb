"""The flow: a conditional density as a stack of autoregressive layers."""
