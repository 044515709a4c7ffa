"""The scripts that users start. One framework in a process."""
