"""vtune finds good hyperparameters by training many networks at the same time."""

import importlib.metadata

from vtune.failure import SearchError as SearchError
from vtune.fitting import History as History
from vtune.hypermodel import HyperModel as HyperModel
from vtune.hyperparameters import HyperParameters as HyperParameters
from vtune.model import Model as Model
from vtune.sharing import fusion_report as fusion_report
from vtune.trial import (
    Objective as Objective,
    Trainable as Trainable,
    Trial as Trial,
    TrialStatus as TrialStatus,
)
from vtune.tuner import Tuner as Tuner
from vtune.tuners import (
    GridSearch as GridSearch,
    Hyperband as Hyperband,
    RandomSearch as RandomSearch,
    SuccessiveHalving as SuccessiveHalving,
)


__version__ = importlib.metadata.version("vtune")
