"""What a person sees: the progress of a search, and its summaries."""
