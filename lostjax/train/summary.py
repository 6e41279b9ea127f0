"""What a finished run came to, gathered for its report.

The ledger sets this model beside the dense model of the same shape: parameters, bytes
of parameters, gradients and optimiser state, the activations that the backward pass
needs, and FLOPs. Activation bytes are those of the traced program (`jax.vjp`'s
residuals, before the compiler fuses any away), so they are comparable, not measured.
"""
