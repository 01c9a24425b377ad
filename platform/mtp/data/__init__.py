"""Layer 2: prepared data sets, their order, and (in `mtp.data.stream`) the Ray tasks and Ray Data streams over them.

Importing this package imports neither torch nor ray: tasks of the pipelines import it in every worker process.
"""

from mtp.data.manifest import Manifest
from mtp.data.prepared import PreparedDataset, open_dataset, read_rows
from mtp.data.training_data import TrainingData, open_training_data

__all__ = ["Manifest", "PreparedDataset", "TrainingData", "open_dataset", "open_training_data", "read_rows"]
