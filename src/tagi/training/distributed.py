"""Training in several processes: who writes, and whole tensors out of sharded ones."""

import atexit
import copy
import os
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import DistributedType, PartialState  # type: ignore[import-untyped]
from accelerate.utils import gather_object, get_int_from_env  # type: ignore[import-untyped]
from torch import Tensor, nn
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from tagi.errors import TrainingError
from tagi.methods.protocol import Trainable

T = TypeVar("T")
R = TypeVar("R")
# Whatever launches processes (accelerate, torchrun, an MPI) names them in one of these.
_RANK = ["RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"]
_SIZE = ["WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"]


def process_index() -> int:
    """Return the number of this process, from 0; known before anything is set up."""
    return max(get_int_from_env(_RANK, 0), 0)


def process_count() -> int:
    """Return the number of processes that train together."""
    return max(get_int_from_env(_SIZE, 1), 1)


def is_main_process() -> bool:
    """Whether this is the process that writes files; true where there is only one."""
    return process_index() == 0


def once(done: Callable[[], bool], make: Callable[[], object]) -> None:
    """Have the main process make what is not there yet; the others wait until it is.

    For files that every process reads before processes know of each other; `done` must turn true at once, as a rename
    does. If the main process fails, the launcher ends those that wait.
    """
    if is_main_process():
        if not done():
            make()
        return
    while not done():
        time.sleep(0.2)


def is_sharded() -> bool:
    """Whether the launcher asked for FSDP or DeepSpeed, which take a model's tensors apart."""
    return _asked_for("FSDP") or is_deepspeed()


def is_deepspeed() -> bool:
    """Whether the launcher asked for DeepSpeed."""
    return _asked_for("DEEPSPEED")


def leave_at_exit() -> None:
    """Have this process leave the group before it ends: its threads would abort it, and the launcher all others."""
    if torch.distributed.is_initialized():
        atexit.unregister(_leave)
        atexit.register(_leave)


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _asked_for(name: str) -> bool:
    return os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true"


def settle_launch(bf16: bool) -> None:
    """Let the settings decide about bf16, and find our own DeepSpeed configurations, whatever folder this is."""
    if "ACCELERATE_MIXED_PRECISION" in os.environ:
        os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16" if bf16 else "no"
    named = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "")
    ours = resources.files("tagi") / "assets" / "accelerate" / named
    if named and not Path(named).exists() and ours.is_file():
        os.environ["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = str(ours)


def shardable(model: Trainable) -> Trainable:
    """A copy that FSDP and DeepSpeed can take apart: they need every tensor to have a dimension."""
    taken = copy.deepcopy(model)
    for module in taken.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.dim() == 0:
                line = nn.Parameter(parameter.detach().reshape(1), requires_grad=parameter.requires_grad)
                module._parameters[name] = line
    layers = {name for module in taken.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    present = {type(module).__name__ for module in taken.modules()}
    taken._no_split_modules = sorted(layers & present)  # type: ignore[assignment]  # what FSDP takes apart singly
    return taken


def allow_fsdp_on_cpus(state: PartialState) -> None:
    """Let FSDP spread a model over processes on CPUs: accelerate asks for accelerators, PyTorch's FSDP 2 does not."""
    if _asked_for("FSDP") and state.distributed_type == DistributedType.MULTI_CPU:
        state.distributed_type = DistributedType.MULTI_GPU


def prepare_fsdp(accelerator: Any, bf16: bool) -> None:
    """Set what a launch configuration may leave open. Raises `TrainingError` for FSDP 1, and without a launcher."""
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is None:
        if _asked_for("FSDP"):
            raise TrainingError("FSDP: expected a process of `accelerate launch`, got one that was started alone")
        return
    if plugin.fsdp_version != 2:
        raise TrainingError(f"FSDP: expected fsdp_version: 2 in the launch configuration, got {plugin.fsdp_version}")
    # Every process has the weights already, and making them anew would part embeddings that are one.
    plugin.cpu_ram_efficient_loading = False
    if bf16:  # gradients are summed in fp32, and the loss is not rounded on its way out
        plugin.mixed_precision_policy = torch.distributed.fsdp.MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32
        )


def keep_gathered(model: nn.Module) -> None:
    """Have ZeRO 3 hold, for the length of a step, what is in no layer of a backbone, as FSDP does.

    It gathers a module's weights again when the gradient reaches the module's output, and does not see into a bank.
    Nothing without ZeRO 3.
    """
    if not any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        return
    from deepspeed.runtime.zero import register_external_parameter  # type: ignore[import-not-found]

    layers = [module for module in model.modules() if type(module).__name__ in model._no_split_modules]  # type: ignore[operator]
    inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in inside:
            register_external_parameter(model, parameter)


def full_tensors(model: Trainable, whole: Trainable) -> dict[str, Tensor]:
    """The trained tensors, shaped as in `whole`, on the CPU; every process must ask at the same time."""
    shapes = {name: tensor.shape for name, tensor in whole.trained_tensors().items()}
    return {
        name: _full(tensor).detach().cpu().reshape(shapes[name]).contiguous()
        for name, tensor in model.trained_tensors().items()
    }


def _full(tensor: Tensor) -> Tensor:
    if hasattr(tensor, "full_tensor"):  # FSDP's
        whole: Tensor = tensor.full_tensor()
        return whole
    if hasattr(tensor, "ds_id") or hasattr(tensor, "_hp_mapping"):  # DeepSpeed's: the fp32 that it keeps is the truth
        from deepspeed.utils import safe_get_full_fp32_param  # type: ignore[import-not-found]

        return safe_get_full_fp32_param(tensor)
    return tensor


def forget_launch() -> None:
    """Let models that are loaded after training be in one piece: transformers would take them apart for ZeRO 3, too."""
    if is_deepspeed():
        unset_hf_deepspeed_config()


def of_all_processes(value: Any) -> list[Any]:
    """A picklable value of every process, in order; every process must ask at the same time."""
    if process_count() == 1:
        return [value]
    PartialState(cpu=not torch.accelerator.is_available())  # sets up the group, where no trainer has
    leave_at_exit()
    return list(gather_object([value]))


def of_main_process(value: Any) -> Any:
    """The main process's value on every process, which must all ask at the same time."""
    return of_all_processes(value)[0]


def shared_among_processes(work: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[T, R]]:
    """Do the work of many items, an item per process at a time; every process gets every result, in order.

    Results have to be picklable, and every process must go through all of them.
    """
    count = process_count()
    for first in range(0, len(items), count):
        chosen = items[first : first + count]
        own = [work(item) for item in chosen[process_index() :][:1]]
        yield from zip(chosen, (one for part in of_all_processes(own) for one in part), strict=True)
