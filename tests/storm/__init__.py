"""Seeded storms: pushes and pulls under faults drawn from a seed, and what must hold after each."""
