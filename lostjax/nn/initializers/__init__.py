"""Initial factors, channels and supports of factored matrices."""
