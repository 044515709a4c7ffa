"""What runs mean together: read from run folders alone."""
