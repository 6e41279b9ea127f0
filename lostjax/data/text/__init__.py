"""Text: sources by name, documents, held-out parts."""
