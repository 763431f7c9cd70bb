"""Exactly N trials, claimed by workers under leases."""
