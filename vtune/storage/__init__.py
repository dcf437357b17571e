"""What lasts: a study's directory, its database and its checkpoints."""
