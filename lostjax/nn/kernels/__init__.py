"""The products of linear maps: their meaning in jnp, and the only door to Pallas."""
