"""Products of linear maps: jnp reference and kernels; the only user of Pallas."""
