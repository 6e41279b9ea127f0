"""Build what runs from a configuration: model, optimiser, objective, programs."""
