"""`tagi train`: a training stage of a recipe."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from tagi.cli.output import JsonFlag, Overrides, print_json

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped recipe's name, or a TOML file.")]
StageName = Annotated[
    str,
    typer.Argument(metavar="STAGE", help="One of the stages above."),
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder for the checkpoint and the record.")]
Start = Annotated[
    list[str] | None,
    typer.Option(
        "--from", metavar="CHECKPOINT", help="Start from the parameters of this checkpoint. Can be given several times."
    ),
]
Teachers = Annotated[Path | None, typer.Option("--teachers", metavar="DIR", help="LoRA teachers, for finetune.")]
Metatrained = Annotated[
    str | None,
    typer.Option("--metatrained", metavar="CHECKPOINT", help="The meta-trained model, if the recipe teaches by it."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Take up the run in DIR where it was interrupted.")]


class TrainCommand(TyperCommand):
    """The command with the stages in its help: their modules are imported only when it is asked for."""

    def get_help(self, ctx: Any) -> str:
        """Return the help with a line for each stage in place of `{stages}`."""
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
    """Train one stage of a recipe (all of them in their order: tagi run).

    
{stages}

    DIR/model is the checkpoint, DIR/record.json says how it was made.

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
    from tagi.cli.quiet import quiet
    from tagi.stages.recipes import load_recipe
    from tagi.stages.registry import stage_of

    name = stage_of(stage).name
    loaded = load_recipe(recipe, overrides or [])
    quiet()
    from tagi.stages.protocol import Sources
    from tagi.stages.train import train_stage
    from tagi.training.distributed import is_main_process

    sources = Sources(tuple(start or ()), teachers, metatrained)
    record = train_stage(loaded, name, out, sources=sources, resume=resume)
    if not is_main_process():  # of several, one tells
        return
    if as_json:
        print_json(record)
        return
    _print_summary(record, out)


def _print_summary(record: dict[str, Any], out: Path) -> None:
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
        named = one.get("category", one.get("task"))
        typer.echo(f"  {named}: {one['steps']} steps, loss {_shown(one['final_loss'])}")
    typer.echo(f"catalogue: {out / 'catalogue.json'}" if "teachers" in record else f"checkpoint: {out / 'model'}")


def _shown(loss: float | None) -> str:
    return "not logged" if loss is None else f"{loss:.3f}"
