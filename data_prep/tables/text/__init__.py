"""Tables of text: their rows, and the lines above them."""
