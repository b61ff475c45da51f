"""`tagi train`: a training stage of a recipe."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from tagi.cli.output import JsonFlag, Overrides, RecipeName, print_record

StageName = Annotated[str, typer.Argument(metavar="STAGE", help="One of the stages listed above.")]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="New folder for checkpoint and record.")]
Start = Annotated[
    list[str] | None,
    typer.Option("--from", metavar="CHECKPOINT", help="Initialise from this checkpoint. Can be given several times."),
]
Teachers = Annotated[
    Path | None,
    typer.Option("--teachers", metavar="DIR", help="Folder of the LoRA teachers, if the recipe uses them."),
]
Metatrained = Annotated[
    str | None,
    typer.Option("--metatrained", metavar="CHECKPOINT", help="Meta-trained model, if the recipe uses it as teacher."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the interrupted run in DIR.")]


class TrainCommand(TyperCommand):
    """Lists the stages in the help text; imports their modules only when the help is requested."""

    def get_help(self, ctx: Any) -> str:
        """Return the help with `{stages}` replaced by one line per stage."""
        from tagi.stages.registry import STAGES

        lines = "\n".join(f"      {stage.name:<10} {stage.description}" for stage in STAGES)
        self.help = str(self.help).replace("{stages}", lines)
        return super().get_help(ctx)


def train(
    stage: StageName,
    recipe: RecipeName,
    out: Out,
    start: Start = None,
    teachers: Teachers = None,
    metatrained: Metatrained = None,
    overrides: Overrides = None,
    resume: Resume = False,
    as_json: JsonFlag = False,
) -> None:
    """Train one stage of a recipe. `tagi run` runs all of them in order.

    
{stages}

    Writes the checkpoint to DIR/model and a record of the run to DIR/record.json.

    \b
    Examples:
      tagi train metatrain toy --out runs/toy-concatenated
      tagi train finetune toy-lora-only --from runs/toy-concatenated --out runs/toy-lora-only
      tagi train teachers toy --out runs/toy-teachers
      tagi train pretrain toy --out runs/toy-pretrained
      tagi train finetune toy --from runs/toy-pretrained --teachers runs/toy-teachers --out runs/toy
      tagi train finetune toy --from runs/toy-pretrained --teachers runs/toy-teachers --out runs/toy --resume
      tagi train metatrain sni-small --set data.path=natural-instructions \\
          --set backbone.tokenizer=google/t5-base-lm-adapt --out runs/sni
    """
    from tagi.stages.recipes import load_recipe
    from tagi.stages.registry import stage_of

    name = stage_of(stage).name
    loaded = load_recipe(recipe, overrides or [])
    from tagi.api.recipes import train as run
    from tagi.training.distributed import is_main_process

    rests_on: Any = {"start": start or (), "teachers": teachers, "metatrained": metatrained}
    record = run(loaded, out, stage=name, **rests_on, resume=resume, progress=True)
    if is_main_process():  # only one of several processes prints
        print_record(record, partial(_print_summary, out), as_json=as_json)


def _print_summary(out: Path, record: dict[str, Any]) -> None:
    data, training, parameters = record["data"], record["training"], record["parameters"]
    if "tasks" in data:
        typer.echo(f"{data['tasks']} tasks, {len(data['categories'])} categories, {data['instances']} instances")
    short = [f"{name} {here} of {paper}" for name, here, paper in data.get("table_10", []) if here != paper]
    if short:
        typer.echo(f"categories whose number of tasks is not Table 10's: {', '.join(short)}")
    typer.echo(f"{parameters['trained']:,} parameters trained, {parameters['frozen']:,} frozen")
    losses = [entry["loss"] for entry in training["history"] if "loss" in entry]
    last = f", loss {losses[0]:.3f} -> {losses[-1]:.3f}" if losses else ""
    typer.echo(f"{training['steps']} steps in {training['seconds'] / 60:.1f} min{last}")
    for one in record.get("teachers", []) + record.get("models", []):
        loss = "not logged" if one["final_loss"] is None else f"{one['final_loss']:.3f}"
        typer.echo(f"  {one.get('category', one.get('task'))}: {one['steps']} steps, loss {loss}")
    typer.echo(f"catalogue: {out / 'catalogue.json'}" if "teachers" in record else f"checkpoint: {out / 'model'}")
