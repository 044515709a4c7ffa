"""What a run did: its folder, the truth, and the trackers that mirror it."""
