"""Devices: platform, hosts, mesh, chips, compilation cache."""
