"""Where the time of a search goes."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Where a search's time went.

    The next trials are traced and planned for while programs are compiled and run, so
    that the seconds may add up to more than the search took.

    Args:
        training_programs: the different programs that trained epochs.
        tracing_seconds: running `build` and tracing what it returned.
        planning_seconds: finding out which trials share a program.
        checking_seconds: comparing trials inside an envelope with the same alone.
        compiling_seconds: compiling programs.
        training_seconds: training and evaluating.
    """

    training_programs: int = 0
    tracing_seconds: float = 0.0
    planning_seconds: float = 0.0
    checking_seconds: float = 0.0
    compiling_seconds: float = 0.0
    training_seconds: float = 0.0

    def plus(self, **seconds: float) -> "Statistics":
        """The statistics with some seconds added, by field."""
        sums = {name: getattr(self, name) + value for name, value in seconds.items()}
        return dataclasses.replace(self, **sums)
