"""From instructions to adapters: generators, fusion, the assembled model and what it keeps of a task."""

from tagi.hypernetwork.adapter_folder import generator_digest, read_record
from tagi.hypernetwork.checkpoint import generator_tensors, load_generator, save_generator
from tagi.hypernetwork.component import ComponentGenerator
from tagi.hypernetwork.fusion import Fusion
from tagi.hypernetwork.generator import Generator, text_encoder
from tagi.hypernetwork.inference import Runner, answer, merged_runner, rows_runner, score
from tagi.hypernetwork.pooled import PooledGenerator
from tagi.hypernetwork.query import QueryGenerator
from tagi.hypernetwork.settings import GeneratorSettings
from tagi.hypernetwork.shared_lora import SharedLora
from tagi.hypernetwork.states import TaskStates, stack_states
from tagi.hypernetwork.states_memory import StatesMemory
from tagi.hypernetwork.targets import (
    BottleneckTarget,
    LoraTarget,
    PrefixTarget,
    ResidualTarget,
    Target,
    blank_bank,
    lora_target,
    targets_of,
    words_of,
)
from tagi.hypernetwork.task_adapter import TaskAdapter
from tagi.hypernetwork.tune import set_tuned

__all__ = [
    "BottleneckTarget",
    "ComponentGenerator",
    "Fusion",
    "Generator",
    "GeneratorSettings",
    "LoraTarget",
    "PooledGenerator",
    "PrefixTarget",
    "QueryGenerator",
    "ResidualTarget",
    "Runner",
    "SharedLora",
    "StatesMemory",
    "Target",
    "TaskAdapter",
    "TaskStates",
    "answer",
    "blank_bank",
    "generator_digest",
    "generator_tensors",
    "load_generator",
    "lora_target",
    "merged_runner",
    "read_record",
    "rows_runner",
    "save_generator",
    "score",
    "set_tuned",
    "stack_states",
    "targets_of",
    "text_encoder",
    "words_of",
]
