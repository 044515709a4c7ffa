"""The scripts that users run; one framework per process."""
