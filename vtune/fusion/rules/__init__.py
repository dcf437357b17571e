"""What each kind of equation does to padded axes."""
