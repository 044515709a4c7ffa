"""What was found, for readers: one list of sections, drawn and written."""
