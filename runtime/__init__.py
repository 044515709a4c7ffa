"""Who runs it: processes, signals, and how ranks agree and watch over each other."""
