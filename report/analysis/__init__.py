"""Many runs together: what they show, in numbers, before any of it is drawn."""
