"""The tuners that a user makes."""
