"""Processes and signals of a run, and how ranks agree and monitor each other."""
