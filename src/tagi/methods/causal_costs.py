"""FLOPs of decoder-only models that read an instruction and an input, from their shapes alone.

A prompt of L tokens is read at once: L^2 pairs in self-attention, as masked products are computed whole. It gives
the first token; o - 1 steps, each attending to all before it and to itself, give the others. The head scores one
position per token given.
"""

from dataclasses import dataclass

from tagi.methods.costs import Components, Cost, Lengths, Number


@dataclass(frozen=True, slots=True)
class CausalShapes:
    """What a decoder-only model's arithmetic depends on.

    `inner` is heads x their width, `key_value` that of keys and of values (less than `inner` where heads share them);
    `gated`: a feed-forward of three matrices, not two.
    """

    d_model: int
    inner: int
    key_value: int
    d_ff: int
    gated: bool
    layers: int
    vocabulary: int

    def read(self, tokens: Number, before: Number = 0) -> Number:
        """All layers over `tokens` at once, after `before` whose keys and values are there."""
        return self._layers(tokens, tokens * (before + tokens))

    def write(self, steps: Number, before: Number) -> Number:
        """All layers over `steps` tokens, one at a time, after `before`."""
        return self._layers(steps, steps * before + steps * (steps + 1) / 2)

    def head(self, tokens: Number) -> Number:
        """Scores of the whole vocabulary for every token."""
        return 2 * tokens * self.d_model * self.vocabulary

    def _layers(self, tokens: Number, pairs: Number) -> Number:
        projections = 2 * tokens * self.d_model * (2 * self.inner + 2 * self.key_value)
        attention = 2 * 2 * pairs * self.inner
        feed_forward = (3 if self.gated else 2) * 2 * tokens * self.d_model * self.d_ff
        return self.layers * (projections + attention + feed_forward)


def causal_concatenation_cost(shapes: CausalShapes, lengths: Lengths, *, prefix_cached: bool) -> Cost:
    """Instruction and input in one prompt: read anew for every example, or the instruction's keys and values kept."""
    steps = shapes.write(lengths.output - 1, lengths.prompt)
    head = shapes.head(lengths.output)
    if not prefix_cached:
        return Cost(Components(), Components(decoder=shapes.read(lengths.prompt) + steps, head=head), lengths.examples)
    own = lengths.prompt - min(lengths.instruction, lengths.prompt)
    kept = lengths.prompt - own
    each = Components(decoder=shapes.read(own, before=kept) + steps, head=head)
    return Cost(Components(instruction=shapes.read(kept)), each, lengths.examples)
