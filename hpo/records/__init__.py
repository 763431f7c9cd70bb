"""`run.json`: what trials were and what came of them, ours and the thesis's."""
