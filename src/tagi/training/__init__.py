"""One trainer for any method."""

from tagi.training.distributed import is_main_process, once, process_count
from tagi.training.settings import TrainingSettings
from tagi.training.trainer import fingerprint, train

__all__ = ["TrainingSettings", "fingerprint", "is_main_process", "once", "process_count", "train"]
