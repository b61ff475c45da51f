"""FLOPs of methods that learn in context, on a T5, from its shapes alone.

`query` is an input with what stands before it, demonstrations apart; `limit` that of a whole prompt: demonstrations
that do not fit are not read. `lora_rank` is that of a LoRA that is not merged.
"""

from dataclasses import replace

from tagi.methods.flops.costs import Components, Cost, Lengths, Number
from tagi.methods.flops.t5 import T5Shapes, concatenation_cost


def fid_icl_cost(shapes: T5Shapes, lengths: Lengths, query: Number, lora_rank: int | None = None) -> Cost:
    """Demonstrations encoded one by one, once; then for every example the query, and the decoder over all of them."""
    one, shown, written = lengths.demonstration, lengths.shots * lengths.demonstration, lengths.output
    once = Components(
        instruction=lengths.shots * shapes.encoder(one),
        adapter=0 if lora_rank is None else shapes.lora(lora_rank, shown, 0),
        decoder=shapes.decoder_memory(shown),
    )
    each = Components(
        adapter=0 if lora_rank is None else shapes.lora(lora_rank, query, written),
        encoder=shapes.encoder(query),
        decoder=shapes.decoder_memory(query) + shapes.decoder(written, shown + query),
        head=shapes.head(written),
    )
    return Cost(once, each, lengths.examples)


def concat_icl_cost(
    shapes: T5Shapes, lengths: Lengths, query: Number, limit: int, lora_rank: int | None = None
) -> Cost:
    """Demonstrations and query in one text, encoded anew for every example."""
    shown = _fitting(lengths, lengths.shots, query, limit) * lengths.demonstration
    return concatenation_cost(shapes, replace(lengths, concatenated=shown + query), lora_rank)


def ensemble_icl_cost(
    shapes: T5Shapes, lengths: Lengths, query: Number, limit: int, lora_rank: int | None = None
) -> Cost:
    """As many passes as there are demonstrations, each with one of them, for every example."""
    shown = _fitting(lengths, 1, query, limit) * lengths.demonstration
    one = concatenation_cost(shapes, replace(lengths, concatenated=shown + query), lora_rank)
    return Cost(one.once, one.each * lengths.shots, one.examples)


def _fitting(lengths: Lengths, shots: int, query: Number, limit: int) -> int:
    """How many of the first `shots` demonstrations stand before a query within the limit."""
    if not lengths.demonstration:
        return shots
    return min(shots, max(0, int((limit - query) // lengths.demonstration)))
