"""The configuration: schema, presets, checks and stored form."""
