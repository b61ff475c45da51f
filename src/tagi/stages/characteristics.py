"""The eight characteristics of the paper's Tables 1 and 8, worked out from a recipe."""

from tagi.settings.recipe import Recipe
from tagi.stages.registry import last_stage

CHARACTERISTICS = (
    "Meta-Train",
    "Pre-Train",
    "Instr. Concat.",
    "Instr. Fus.",
    "Low Up. Params",
    "Low Infer. Cost",
    "Instr. Learning",
    "Unseen Task",
)
"""In the order of Table 8."""


def characteristics(recipe: Recipe) -> dict[str, bool]:
    """Return each characteristic of what the recipe's last stage trains, by the paper's name for it.

    - Meta-Train: something is trained on the training tasks.
    - Pre-Train: a hypernetwork is trained on unlabelled text before.
    - Instr. Concat.: the instruction's states, or its tokens, precede the input's where the answer is written.
    - Instr. Fus.: the input's states attend to the instruction while they are computed.
    - Low Up. Params: some of the backbone's parameters stay as they are.
    - Low Infer. Cost: the instruction, or the demonstrations, are read once for all inputs of a task.
    - Instr. Learning: a teacher that reads the instruction with the input supervises the hypernetwork. With
      `losses.alone_kl` the model itself is this teacher.
    - Unseen Task: what is trained is made for tasks that training has not seen.

    The paper grades the last by ticks, from results; here it is a matter of how a method is made.
    """
    return dict(zip(CHARACTERISTICS, last_stage(recipe).traits(recipe), strict=True))
