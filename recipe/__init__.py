"""What a run must do: every number and choice that both frameworks share."""
