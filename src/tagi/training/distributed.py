"""Training in several processes: the main process, communication, and gathering sharded tensors."""

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
# Set by launchers (accelerate, torchrun, MPI).
_RANK = ["RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"]
_SIZE = ["WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"]


def process_index() -> int:
    """Return the rank of this process. Works before the process group is set up."""
    return max(get_int_from_env(_RANK, 0), 0)


def process_count() -> int:
    """Return the number of processes that train together."""
    return max(get_int_from_env(_SIZE, 1), 1)


def is_main_process() -> bool:
    """Whether this is the main process, which writes files."""
    return process_index() == 0


def once(done: Callable[[], bool], make: Callable[[], object]) -> None:
    """Let the main process create something while the others wait for it.

    For files that are read before the process group is set up. `done` must change atomically, as with a rename. If the
    main process fails, the launcher ends the others.
    """
    if is_main_process():
        if not done():
            make()
        return
    while not done():
        time.sleep(0.2)


def is_sharded() -> bool:
    """Whether the launcher uses FSDP or DeepSpeed, which shard the model's tensors."""
    return _asked_for("FSDP") or is_deepspeed()


def is_deepspeed() -> bool:
    """Whether the launcher uses DeepSpeed."""
    return _asked_for("DEEPSPEED")


def leave_at_exit() -> None:
    """Leave the process group at exit. Otherwise its threads abort the process, and the launcher ends all others."""
    if torch.distributed.is_initialized():
        atexit.unregister(_leave)
        atexit.register(_leave)


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _asked_for(name: str) -> bool:
    return os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true"


def settle_launch(bf16: bool) -> None:
    """Let the settings decide on bf16, and find the package's DeepSpeed configurations from any folder."""
    if "ACCELERATE_MIXED_PRECISION" in os.environ:
        os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16" if bf16 else "no"
    named = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "")
    ours = resources.files("tagi") / "assets" / "accelerate" / named
    if named and not Path(named).exists() and ours.is_file():
        os.environ["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = str(ours)


def shardable(model: Trainable) -> Trainable:
    """Return a copy for FSDP and DeepSpeed, in which every tensor has at least one dimension."""
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
    # Every process has the weights already, and recreating them would untie embeddings.
    plugin.cpu_ram_efficient_loading = False
    if bf16:  # sum gradients in fp32, and do not round the loss
        plugin.mixed_precision_policy = torch.distributed.fsdp.MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32
        )


def keep_gathered(model: nn.Module) -> None:
    """Keep parameters outside of the backbone's layers gathered during a step under ZeRO 3, as FSDP does.

    ZeRO 3 gathers a module's weights again when the gradient reaches the module's output, but does not look into banks.
    Has no effect without ZeRO 3.
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
    """Return the trained tensors, shaped as in `whole`, on the CPU. All processes must call this together."""
    shapes = {name: tensor.shape for name, tensor in whole.trained_tensors().items()}
    return {
        name: _full(tensor).detach().cpu().reshape(shapes[name]).contiguous()
        for name, tensor in model.trained_tensors().items()
    }


def _full(tensor: Tensor) -> Tensor:
    if hasattr(tensor, "full_tensor"):  # FSDP's
        whole: Tensor = tensor.full_tensor()
        return whole
    if hasattr(tensor, "ds_id") or hasattr(tensor, "_hp_mapping"):  # DeepSpeed: its fp32 copy is authoritative
        from deepspeed.utils import safe_get_full_fp32_param  # type: ignore[import-not-found]

        return safe_get_full_fp32_param(tensor)
    return tensor


def forget_launch() -> None:
    """Load further models unsharded after training, which transformers would otherwise shard for ZeRO 3."""
    if is_deepspeed():
        unset_hf_deepspeed_config()


def of_all_processes(value: Any) -> list[Any]:
    """Return a picklable value from every process, in order. All processes must call this together."""
    if process_count() == 1:
        return [value]
    PartialState(cpu=not torch.accelerator.is_available())  # sets up the process group, if no trainer did
    leave_at_exit()
    return list(gather_object([value]))


def of_main_process(value: Any) -> Any:
    """Return the main process's value on every process. All processes must call this together."""
    return of_all_processes(value)[0]


def shared_among_processes(work: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[T, R]]:
    """Distribute work on items over processes. Every process gets all results, in order.

    Results must be picklable, and every process must iterate over all of them.
    """
    count = process_count()
    for first in range(0, len(items), count):
        chosen = items[first : first + count]
        own = [work(item) for item in chosen[process_index() :][:1]]
        yield from zip(chosen, (one for part in of_all_processes(own) for one in part), strict=True)
