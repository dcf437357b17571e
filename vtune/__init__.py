"""vtune finds good hyperparameters by training many networks at the same time."""
