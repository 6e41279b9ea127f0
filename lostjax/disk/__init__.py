"""Crash-safe files: atomic replacement, hashed manifests, locks, append-only lines."""
