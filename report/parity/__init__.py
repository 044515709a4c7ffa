"""Two records of the same training: whether they are the same, and where not."""
