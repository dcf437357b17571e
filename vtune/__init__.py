"""vtune finds good hyperparameters by training many networks at the same time."""

import importlib.metadata

from vtune.failure import SearchError as SearchError
from vtune.fitting import History as History
from vtune.hypermodel import HyperModel as HyperModel
from vtune.hyperparameters import HyperParameters as HyperParameters
from vtune.model import Model as Model
from vtune.sharing import fusion_report as fusion_report
from vtune.storage.failure import StorageError as StorageError
from vtune.stored import StoredStudy as StoredStudy, load_study as load_study
from vtune.trial import (
    Objective as Objective,
    Trainable as Trainable,
    Trial as Trial,
    TrialStatus as TrialStatus,
)
from vtune.tuner import Tuner as Tuner
from vtune.tuners.flat import (
    GridSearch as GridSearch,
    RandomSearch as RandomSearch,
)
from vtune.tuners.halving import (
    Hyperband as Hyperband,
    SuccessiveHalving as SuccessiveHalving,
)


__version__ = importlib.metadata.version("vtune")
