"""Terms of the objective: of past models, weights of rows and of tokens."""
