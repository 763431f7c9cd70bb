"""Trainings of flows of one shape that take their steps as one."""
