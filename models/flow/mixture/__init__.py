"""A conditional mixture of smooth boxes as the density of a flow's noise."""
