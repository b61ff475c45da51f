"""`tagi serve`: an OpenAI-compatible server that generates adapters on demand."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from tagi.errors import InputError

GeneratorName = Annotated[str, typer.Argument(metavar="[GENERATOR]", help="Built-in generator, folder or hub name.")]
Host = Annotated[
    str,
    typer.Option("--host", metavar="ADDRESS", help="Address to listen on. Any other than the default needs --keys."),
]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 picks a free one.")]
Store = Annotated[Path, typer.Option("--store", metavar="DIR", help="Folder that adapters are stored in.")]
KeysFile = Annotated[
    Path | None,
    typer.Option(
        "--keys",
        metavar="FILE",
        help="File of API keys, one NAME:KEY or KEY per line. Each key sees only its own adapters.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option("--device", metavar="NAME", help="Device, e.g. cpu or cuda. Default: a GPU if there is one."),
]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    typer.Option("--dtype", help="Data type of the base model's weights. Default: that of the checkpoint."),
]
Upstream = Annotated[
    list[str] | None,
    typer.Option(
        "--upstream", metavar="URL", help="URL of a vLLM server that generates the answers. Can be given several times."
    ),
]
AdapterDir = Annotated[
    Path | None, typer.Option("--adapter-dir", metavar="DIR", help="Folder from which the vLLM servers load adapters.")
]
UpstreamModel = Annotated[
    str | None, typer.Option("--upstream-model", metavar="NAME", help="Name of the base model in vLLM.")
]
Rows = Annotated[int, typer.Option("--rows", min=1, help="Maximum batch size (without --upstream).")]
Context = Annotated[
    int | None,
    typer.Option("--context", min=16, help="Maximum tokens of prompt and answer. Default: the base model's."),
]
CacheMb = Annotated[
    int, typer.Option("--cache-mb", min=1, help="Memory in MiB for loaded adapters and their KV prefixes.")
]
Waiting = Annotated[int, typer.Option("--max-waiting", min=1, help="Maximum number of queued requests.")]
BodyKb = Annotated[int, typer.Option("--max-body-kb", min=1, help="Maximum size of a request body in KiB.")]
Instruction = Annotated[
    int, typer.Option("--max-instruction", min=1, help="Maximum length of an instruction in characters.")
]
Adapters = Annotated[int, typer.Option("--max-adapters", min=1, help="Maximum number of adapters per key.")]
Concurrent = Annotated[
    int, typer.Option("--max-concurrent", min=1, help="Maximum number of concurrent requests per key.")
]
RefineSteps = Annotated[int, typer.Option("--max-refine-steps", min=1, help="Maximum number of refinement steps.")]
NEEDED = ("fastapi", "httpx2", "prometheus_client", "uvicorn")
"""Packages of the extra `serve`."""


def serve(
    generator: GeneratorName = "smollm2",
    host: Host = "127.0.0.1",
    port: Port = 8000,
    store: Store = Path("runs/serve"),
    keys: KeysFile = None,
    device: Device = None,
    dtype: Dtype = None,
    upstream: Upstream = None,
    adapter_dir: AdapterDir = None,
    upstream_model: UpstreamModel = None,
    rows: Rows = 32,
    context: Context = None,
    cache_mb: CacheMb = 1024,
    max_waiting: Waiting = 256,
    max_body_kb: BodyKb = 1024,
    max_instruction: Instruction = 20_000,
    max_adapters: Adapters = 1000,
    max_concurrent: Concurrent = 64,
    max_refine_steps: RefineSteps = 1000,
) -> None:
    """Start an OpenAI-compatible server. POST an instruction and use the returned id as the model name.

    The first line of output is the address of the web page. /docs describes the API.

    \b
    Examples:
      tagi serve
      tagi serve runs/sni --port 8080 --store adapters
      tagi serve --host 0.0.0.0 --keys keys.txt
      tagi serve smollm2 --upstream http://127.0.0.1:8001 --adapter-dir adapters --upstream-model base

    \b
    Then, on this machine:
      curl http://127.0.0.1:8000/v1/adapters -H 'Content-Type: application/json' \\
        -d '{"instruction": "Write the sentence in the past tense."}'
    """
    _check_installed()
    from tagi.serving.access import Limits
    from tagi.serving.embedded import EmbeddedLimits
    from tagi.serving.run import ServerSettings
    from tagi.serving.run import serve as run

    limits = Limits(
        body_bytes=1024 * max_body_kb,
        instruction_characters=max_instruction,
        adapters_per_key=max_adapters,
        concurrent_per_key=max_concurrent,
        waiting=max_waiting,
        refine_steps=max_refine_steps,
    )
    embedded = EmbeddedLimits(rows=rows, waiting=max_waiting, context=context, adapter_bytes=cache_mb * 2**20)
    run(
        ServerSettings(
            *(generator, host, port, store, keys, device, dtype, limits, embedded),
            upstream=tuple(upstream or ()),
            adapter_dir=adapter_dir,
            upstream_model=upstream_model,
        )
    )


def _check_installed() -> None:
    """Raise `InputError` if the extra `serve` is not installed."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise InputError(
            f"tagi serve needs {', '.join(missing)}, which is not installed: pip install 'tagi-adapters[serve]'"
        )
