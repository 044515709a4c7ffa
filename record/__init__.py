"""What a run did: its folder, and the trackers that mirror it."""
