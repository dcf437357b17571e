"""Why a study cannot be stored or opened."""


class StorageError(RuntimeError):
    """A study's directory cannot be used; the message says why and what to do."""
