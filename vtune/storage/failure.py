"""Why a study cannot be stored or opened."""

PUT_BACK = "Put a copy of it in its place, or start anew in another directory"


class StorageError(RuntimeError):
    """A study's directory cannot be used; the message says why and what to do."""
