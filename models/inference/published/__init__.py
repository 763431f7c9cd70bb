"""Catalogues as collaborations publish them: posterior samples, injections, results."""
