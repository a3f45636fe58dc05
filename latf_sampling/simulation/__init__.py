"""Walkers, from a system to finished segments."""
