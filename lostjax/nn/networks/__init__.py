"""Small networks, for experiments that take seconds."""
