"""One trainer for any method."""

from tagi.training.settings import TrainingSettings
from tagi.training.trainer import fingerprint, train

__all__ = ["TrainingSettings", "fingerprint", "train"]
