"""The eight characteristics of the paper's Tables 1 and 8, worked out from a recipe."""

from tagi.settings.recipe import Recipe

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
    """Each characteristic of what the recipe trains, by the paper's name for it.

    - Meta-Train: something is trained on the training tasks.
    - Pre-Train: a hypernetwork is trained on unlabelled text before.
    - Instr. Concat.: the instruction's states, or its words, stand before the input's where the answer is written.
    - Instr. Fus.: the input's states attend to the instruction while they are computed.
    - Low Up. Params: some of the backbone's parameters stay as they are.
    - Low Infer. Cost: the instruction, or the demonstrations, are read once for all inputs of a task.
    - Instr. Learning: a teacher that reads the instruction with the input supervises the hypernetwork. With
      `losses.alone_kl` the model itself is this teacher.
    - Unseen Task: what is trained is made for tasks that training has not seen.

    The paper grades the last by ticks, from results; here it is a matter of how a method is made.
    """
    stages = recipe.run.stages
    generated, single = "finetune" in stages, "single" in stages
    trained = generated or recipe.metatrain.tune != "none"
    losses = recipe.losses
    prompted = not generated and (single or recipe.metatrain.instruction)
    fused = recipe.generator.fusion if generated else "none"
    kept = generated and recipe.generator.instruction_cache in ("stock", "adapted")
    tune = recipe.single.tune if single else recipe.generator.tune if generated else recipe.metatrain.tune
    cached = recipe.metatrain.method == "fid-icl" or recipe.metatrain.prefix_cached
    return dict(
        zip(
            CHARACTERISTICS,
            (
                trained and not single,
                generated and "pretrain" in stages,
                prompted or kept or fused in ("both", "concatenation"),
                prompted or kept or fused in ("both", "attention"),
                tune != "all",
                generated or (not single and cached),
                generated and (losses.kl > 0 or losses.ins > 0 or losses.alone_kl > 0),
                trained and not single,
            ),
            strict=True,
        )
    )
