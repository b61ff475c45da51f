"""The stage `finetune`: TAGI on tasks, by prediction, distillation from a teacher and alignment (eq. 4 to 6)."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tagi.settings.recipe import Recipe
from tagi.settings.stages import Stage
from tagi.stages.generating import GeneratingStage
from tagi.stages.metatrain import Metatrain
from tagi.stages.pretrain import Pretrain
from tagi.stages.protocol import Fault, Job, Need, Sizes, Sources, Tables, Training, Work, training_data
from tagi.stages.recipe_settings import concatenated_text
from tagi.stages.shots import by_shots
from tagi.stages.teachers import Teachers, on_metatrained


class Finetune(GeneratingStage):
    """Finetuning of the generator."""

    name = "finetune"
    description = "TAGI: prediction, distillation from a teacher, alignment with the LoRA teachers"
    evaluation = "evaluate"

    def table_faults(self, recipe: Recipe) -> Iterator[Fault]:
        """Also check `[losses]` against `[generator]`."""
        yield from super().table_faults(recipe)
        generator, losses = recipe.generator, recipe.losses
        for key in [key for key in ("alone", "alone_kl") if getattr(losses, key)][:1]:
            if generator.state_dropout:
                wanted = "expected generator.state_dropout = 0 with it, since half of the rows are without instruction"
                yield f"losses.{key}", f"{wanted} anyway, got {generator.state_dropout}"
            elif generator.fusion == "none" and generator.instruction_cache in (None, "none"):
                wanted = "expected generator.fusion or generator.instruction_cache other than 'none' with it, since"
                given = getattr(losses, key)
                yield f"losses.{key}", f"{wanted} otherwise every row is asked with the adapter alone, got {given}"
        if losses.ins and generator.shared_rank and losses.alignment != "product":
            wanted = "expected 'product' with losses.ins and generator.shared_rank, whose LoRA has a higher rank than"
            yield "losses.alignment", f"{wanted} teachers, got {losses.alignment!r}"

    def needs(self, recipe: Recipe) -> list[Need]:
        """Return the starting model and the teachers that the losses need."""
        losses, needs = recipe.losses, super().needs(recipe)
        if Pretrain.name in recipe.run.stages:
            needs.append(Need(Pretrain.name, "start", "run.stages"))
        if losses.ins > 0 or (losses.kl > 0 and losses.teacher == "lora"):
            reason = "losses.ins" if losses.ins > 0 else "losses.kl with losses.teacher = 'lora'"
            needs.append(Need(Teachers.name, "teachers", reason))
        if losses.kl > 0 and losses.teacher != "lora":
            method = "concatenation" if losses.teacher == "metatrained" else losses.teacher
            needs.append(Need(Metatrain.name, "metatrained", f"losses.teacher = {losses.teacher!r}", method))
        elif needs and needs[-1].role == "teachers":
            needs += on_metatrained(recipe)
        return needs

    def sources(self, recipe: Recipe, folders: Mapping[Stage, Path]) -> Sources:
        """Return the sources of the stage, `run.checkpoint` first."""
        return self.from_checkpoint(recipe, super().sources(recipe, folders))

    def from_checkpoint(self, recipe: Recipe, sources: Sources) -> Sources:
        """Return the sources with `run.checkpoint` first."""
        given = recipe.run.checkpoint
        return sources if given is None else replace(sources, start=(given, *sources.start))

    def deciding(self, recipe: Recipe, tables: Tables) -> dict[str, Any]:
        """Return the training data, `[generator]`, `[losses]` and the number of shots."""
        shots: dict[str, Any] | None = None
        if recipe.losses.kl and recipe.losses.teacher == "fid-icl":
            shots = {"count": recipe.shots.count, "seed": recipe.shots.seed}
        elif self.episode_shots(recipe):
            shots = {"count": recipe.shots.count}
        return {
            "data": training_data(tables),
            "generator": tables["generator"],
            "losses": tables["losses"],
            **({"shots": shots} if shots else {}),
        }

    def episode_shots(self, recipe: Recipe) -> int:
        """Return `shots.count` for generators that read shots."""
        return recipe.shots.count if by_shots(recipe) else 0

    def build(self, job: Job) -> Training:
        """Build the generator, its objective and its tasks."""
        from tagi.methods.tagi import TAGI
        from tagi.stages.objective import build_objective
        from tagi.stages.one_model import OneModel
        from tagi.stages.recipe_models import load_recipe_backbone

        recipe = job.recipe
        backbone = load_recipe_backbone(recipe, job.out, self.settings(recipe).dropout)
        tasks = job.data.tasks("train")
        batches = self.task_batches(recipe, tasks)
        generator = self.untrained(recipe, backbone).generator
        objective = build_objective(job, generator, batches)
        data = tasks.record()
        if recipe.losses.ins:
            data["aligned_tasks"] = objective.aligned_tasks(tasks.tasks)
        return OneModel(self.name, job, TAGI(generator, objective), batches, data)

    def traits(self, recipe: Recipe) -> tuple[bool, ...]:
        """Return the conditions for generated adapters."""
        generator, losses = recipe.generator, recipe.losses
        cached = generator.instruction_cache in ("stock", "adapted")
        return (
            True,
            Pretrain.name in recipe.run.stages,
            cached or generator.fusion in ("both", "concatenation"),
            cached or generator.fusion in ("both", "attention"),
            generator.tune != "all",
            True,
            losses.kl > 0 or losses.ins > 0 or losses.alone_kl > 0,
            True,
        )

    def parameters(self, recipe: Recipe, sizes: Sizes) -> tuple[int, int]:
        """Add the parameters of a teacher that runs during training, unless it is the student's backbone."""
        trained, frozen = super().parameters(recipe, sizes)
        losses = recipe.losses
        if losses.kl and not losses.top_k and (losses.teacher != "lora" or sizes.tuned):
            frozen += sizes.backbone
        return trained, frozen

    def work(self, recipe: Recipe, sizes: Sizes, trained: int) -> Work:
        """Count rows, encoded instructions, generated adapters and the teacher's pass.

        With pairs of rows every sample makes two. If the instruction is processed under the task's LoRA, rows with
        instruction include its tokens.
        """
        settings, data, losses = self.settings(recipe), recipe.data, recipe.losses
        samples, per_token = self.samples(recipe), sizes.backward(trained)
        alone = data.max_input_tokens + data.max_target_tokens
        prompt = data.max_instruction_tokens if recipe.generator.instruction_cache == "adapted" else 0
        pairs = bool(losses.alone or losses.alone_kl)
        given = samples * (prompt + alone + (alone if pairs else 0))
        read = settings.tasks_per_batch * data.max_instruction_tokens
        # Without a trained encoder there is no gradient through instruction states.
        per_read = per_token if sizes.tuned or recipe.generator.reader == "own" else 2
        flops = (given * per_token + read * per_read) * sizes.body + settings.tasks_per_batch * 6 * sizes.generated
        if losses.kl and not losses.top_k:  # the teacher reads instruction, or demonstrations, and input, forward only
            asked = samples * (concatenated_text(recipe).max_prompt_tokens + data.max_target_tokens)
            shown = settings.tasks_per_batch * recipe.shots.count * alone if losses.teacher == "fid-icl" else 0
            flops += (asked + shown) * sizes.body * 2
        return Work(given + read, flops, samples * 2 if pairs else samples)


STAGE = Finetune()
