"""How long commands say nothing: the longest time without a character on either output, and what was said last before.

python benchmarks/silence.py WORK OUT.json [--terminal]

Runs commands as a shell would, with both outputs in one pipe, or with `--terminal` on a pseudo-terminal. The time from
the start to the first character and from the last one to the end counts. WORK is a new folder for what they write. The
first command converts the shipped model's GGUF file, since TAGI_CACHE is a folder in WORK.
"""

import json
import os
import pty
import select
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

INSTRUCTION = "Write the sentence in the past tense."
COMMANDS = (
    f"generate -i '{INSTRUCTION}' --out WORK/adapter",
    f"predict -i '{INSTRUCTION}' 'She walks to the station.'",
    "predict -a WORK/adapter 'She walks to the station.' 'They sing.'",
    "export WORK/adapter --format peft --out WORK/exported",
    "verify WORK/exported",
    "export WORK/adapter --format gguf --out WORK/gguf",
    "demo --toy --limit 10",
    "evaluate toy toy --limit 5",
    "flops --methods all --instruction 100 --input 60 --output 5",
    "describe",
    "run sni-xl --dry-run",
    "methods",
    "recipes",
)


def measured(command: str, work: Path, *, terminal: bool) -> dict[str, Any]:
    """Run a command; return its longest silence in seconds, what preceded it, its duration and its exit code."""
    arguments = [sys.executable, "-m", "tagi", *shlex.split(command.replace("WORK", str(work)))]
    ours, theirs = pty.openpty() if terminal else os.pipe()
    environment = {**os.environ, "TAGI_CACHE": str(work / "cache"), "HF_HUB_OFFLINE": "1"}
    begun = last = time.monotonic()
    process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    silences, text = [], b""
    while True:
        select.select([ours], [], [])
        try:
            part = os.read(ours, 65536)
        except OSError:  # a terminal that nobody writes to any more
            part = b""
        now = time.monotonic()
        silences.append((now - last, text[-80:].decode(errors="replace").strip().splitlines()[-1:]))
        text, last = text + part, now
        if not part:
            break
    os.close(ours)
    longest, after = max(silences)
    return {
        "command": f"tagi {command}",
        "longest_silence": round(longest, 2),
        "after": after[0] if after else "(start)",
        "seconds": round(time.monotonic() - begun, 1),
        "code": process.wait(),
    }


def main() -> None:
    work, out, *options = sys.argv[1:]
    Path(work).mkdir(parents=True)
    rows = []
    for command in COMMANDS:
        rows.append(measured(command, Path(work), terminal="--terminal" in options))
        print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
    Path(out).write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
