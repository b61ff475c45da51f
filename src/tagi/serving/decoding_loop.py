"""The loop that decodes all running requests in one batch, in its own thread."""

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tagi.backbones.grouping import length_groups, pass_overhead
from tagi.errors import first_line
from tagi.serving.answers import Answer
from tagi.serving.batch import Prompt, RowBatch, RowLogits
from tagi.serving.protocol import EngineError, Piece
from tagi.serving.sampling import Sampler, choose, most_probable

Outcome = Piece | EngineError
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Row:
    """A request in the loop.

    Args:
        prompt: The prompt.
        answer: The answer so far; it decides when generation ends.
        sampler: Chooses its tokens.
        token: The last token that was chosen. It is processed in the next step.
        abandoned: Whether the client has disconnected. Any thread may set it.
    """

    prompt: Prompt
    answer: Answer
    sampler: Sampler
    token: int = -1
    abandoned: bool = False


Deliver = Callable[[Sequence[tuple[Row, Outcome]]], None]


class DecodingLoop(threading.Thread):
    """Decodes rows. Each turn processes new prompts, as far as there is room, and one token of every row.

    Results are passed to `deliver`: pieces of a row's answer, the last with `finish`, or an `EngineError`, which also
    ends the row. A row that fails does not affect others. If the loop itself fails, all rows end, and `ended` has the
    reason.

    Args:
        batch: The batch. Only this thread may use it from now on.
        capacity: Rows at most.
        prompt_tokens: Maximum number of prompt tokens that are processed in one turn, while the other rows wait.
        deliver: Called in this thread with the results of each turn.
    """

    def __init__(self, batch: RowBatch, capacity: int, prompt_tokens: int, deliver: Deliver) -> None:
        super().__init__(name="tagi decoding", daemon=True)
        self.ended: str | None = None
        """Why no row is taken any more; None while the loop runs."""
        self.generated_tokens = 0
        """Tokens that were generated so far, of all rows."""
        self.batch, self._capacity, self._prompt_tokens, self._deliver = batch, capacity, prompt_tokens, deliver
        self._submitted: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
        self._waiting: deque[Row] = deque()
        self._running: list[Row] = []
        """The rows of the batch, in its order."""
        self._outcomes: list[tuple[Row, Outcome]] = []
        self._closed = False
        self._ending = threading.Lock()

    def submit(self, row: Row) -> None:
        """Add a row. May be called from any thread. Raises `EngineError` if the loop has ended."""
        with self._ending:
            if self.ended is not None:
                raise EngineError(self.ended)
            self._submitted.put(row)

    def close(self) -> None:
        """End the loop after the current turn. Unfinished rows get an `EngineError`."""
        self._closed = True
        self._submitted.put(None)

    def run(self) -> None:
        """Decode until the loop is closed."""
        reason = "the engine was closed"
        try:
            while not self._closed:
                self._take_submitted(wait=not (self._running or self._waiting))
                self._turn()
                self._flush()
        except Exception as error:
            reason = f"decoding stopped: {type(error).__name__}: {first_line(error)}"
            _log.exception("decoding stopped")
        finally:
            self._end_all(reason)

    def _take_submitted(self, *, wait: bool) -> None:
        """Take submitted rows; with `wait`, block until there is one."""
        while wait or not self._submitted.empty():
            row = self._submitted.get()
            if row is not None:
                self._waiting.append(row)
            wait = False

    def _turn(self) -> None:
        self._remove([row for row in self._running if row.abandoned])
        self._waiting = deque(row for row in self._waiting if not row.abandoned)
        for rows in self._admitted():
            self._read(rows)
        if self._running:
            self._step()

    def _admitted(self) -> list[list[Row]]:
        """Return the waiting rows whose prompts fit into this turn, in groups that share a forward pass."""
        rows: list[Row] = []
        left = self._prompt_tokens
        while self._waiting and len(self._running) + len(rows) < self._capacity:
            row = self._waiting[0]
            if len(row.prompt.ids) > left:
                if left == self._prompt_tokens:
                    self._read_start(row)
                break
            left -= len(row.prompt.ids)
            rows.append(self._waiting.popleft())
        if self.batch.backbone.window is not None:
            return [[row] for row in rows]
        lengths = [len(row.prompt.ids) for row in rows]
        groups = length_groups(lengths, pass_overhead(self.batch.backbone.device))
        return [[rows[number] for number in group] for group in groups]

    def _read_start(self, row: Row) -> None:
        """Process as much of a long prompt as fits into one turn."""
        try:
            row.prompt = self.batch.read_start(row.prompt, self._prompt_tokens)
        except Exception as error:
            self._waiting.remove(row)
            self._end_unread(row, error)

    def _read(self, rows: list[Row]) -> None:
        """Process new rows together. If that fails, process them one by one, so that only failing rows end."""
        try:
            logits = self.batch.read([row.prompt for row in rows])
        except Exception as error:
            if len(rows) > 1:
                for row in rows:
                    self._read([row])
            else:
                self._end_unread(rows[0], error)
            return
        self._running += rows
        self._advance(rows, logits)

    def _step(self) -> None:
        """Process the last token of every row. If memory runs out, the longest row ends and the others continue."""
        while self._running:
            try:
                logits = self.batch.step([row.token for row in self._running])
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                longest = self._running[max(range(len(self._running)), key=self.batch.lengths.__getitem__)]
                self._outcomes.append((longest, EngineError(f"cannot go on: {reason_of(error)}")))
                self._remove([longest])
            else:
                self._advance(list(self._running), logits)
                return

    def _advance(self, rows: Sequence[Row], logits: RowLogits) -> None:
        """Choose the next token of each row from its logits, and remove rows that have ended."""
        finite = logits.amax(-1).isfinite().tolist()
        if not all(finite):
            logits = logits.nan_to_num()
        tokens = choose(logits, [row.sampler for row in rows])
        self.generated_tokens += len(rows)
        ended = []
        for number, row in enumerate(rows):
            if not finite[number]:
                ended.append(row)
                self._outcomes.append((row, EngineError("cannot go on: the model's logits are not finite")))
                continue
            row.token, count = tokens[number], row.answer.sampling.logprobs
            reported: tuple[Any, ...] = () if count is None else most_probable(logits[number], row.token, count)
            piece = row.answer.add(row.token, *reported)
            if piece is not None:
                self._outcomes.append((row, piece))
                if piece.finish is not None:
                    ended.append(row)
        self._remove(ended)

    def _end_unread(self, row: Row, error: Exception) -> None:
        """End a row that is not in the batch yet."""
        self._outcomes.append((row, EngineError(f"cannot read the prompt: {reason_of(error)}")))

    def _remove(self, rows: Sequence[Row]) -> None:
        for row in rows:
            number = self._running.index(row)
            self.batch.remove(number)
            self._running[number] = self._running[-1]
            self._running.pop()

    def _flush(self) -> None:
        """Deliver the results of the turn."""
        if self._outcomes:
            outcomes, self._outcomes = self._outcomes, []
            self._deliver(outcomes)

    def _end_all(self, reason: str) -> None:
        """End every unfinished row, and accept no further ones."""
        with self._ending:
            self.ended = reason
        self._take_submitted(wait=False)
        rows = [*self._running, *self._waiting]
        self._running.clear()
        self._waiting.clear()
        self._outcomes += [(row, EngineError(reason)) for row in rows]
        self._flush()


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error means that a device or the machine is out of memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def reason_of(error: Exception) -> str:
    """Return a short description of an error."""
    return "out of memory" if is_out_of_memory(error) else f"{type(error).__name__}: {first_line(error)}"
