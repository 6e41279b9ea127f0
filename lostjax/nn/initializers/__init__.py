"""Initialisation of factors, kept channels and sparse supports."""
