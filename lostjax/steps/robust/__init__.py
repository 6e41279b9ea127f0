"""Training against attacks on the inputs and against wrong labels."""
