"""A task adapter: everything computed once for one task, ready to answer inputs, in memory or in a folder."""

from pathlib import Path

from tagi.files import new_folder
from tagi.formats.task_adapter import read_adapter, write_adapter
from tagi.hypernetwork.adapted_task import AdaptedTask
from tagi.hypernetwork.model import GeneratorModel


class TaskAdapter(AdaptedTask):
    """One task's adapter with its generator, as `AdapterGenerator.adapt` makes it."""

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write the adapter: PEFT's two files, the instruction states and a record of what it was made from.

        PEFT loads the folder as it is, but takes only the LoRA: fusion, instruction states and tuned backbone
        parameters do not travel that way. A module that is not LoRA is in a file of ours instead, and the record says
        which. The same adapter gives the same bytes.
        """
        with new_folder(Path(folder), overwrite=overwrite) as temporary:
            write_adapter(temporary, self.generator, self.states, self.instruction, self.examples, refined=self.refined)

    @classmethod
    def load(cls, folder: str | Path, generator: GeneratorModel) -> "TaskAdapter":
        """Read an adapter written by `save`; the generator must be the one it was made with.

        Raises `CheckpointError` if the folder is damaged or foreign, or made with another generator or base
        model.
        """
        states, instruction, examples, refined = read_adapter(Path(folder), generator)
        return cls(generator, states, instruction, examples, refined=refined)
