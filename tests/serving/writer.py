"""Writes adapters into a store until it is killed, and says which were acknowledged: `python writer.py STORE START`."""

import sys
import threading
from pathlib import Path

from tagi.serving.store import AdapterStore
from tests.serving.drafts import GENERATOR, draft

WRITERS, SIZE = 3, 30_000


def main(root: Path, start: int) -> None:
    store, printing = AdapterStore(root, GENERATOR), threading.Lock()

    def write(number: int) -> None:
        while True:
            entries = store.add("local", [draft(f"task {number}", SIZE), draft(f"task {number} again", SIZE)])
            if number % 5 == 4:
                store.delete("local", entries[1].id)
                entries = entries[:1]
            with printing:
                for entry in entries:
                    print(entry.id, entry.instruction, sep="\t", flush=True)
            number += WRITERS

    for number in range(WRITERS):
        threading.Thread(target=write, args=(start + number,), daemon=True).start()
    threading.Event().wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
