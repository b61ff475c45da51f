"""T5 written plainly, from its arithmetic and from what papers say of adapters and prefixes: a text at a time.

No batch, no padding, no cache, no hook: whatever the library attaches, joins and caches must come to the same.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tagi.adapters.protocol import Bank
from tagi.backbones.t5 import T5Backbone


class SlowT5:
    """A backbone's weights and one task's generated numbers, in fp64. `parallel`: bottlenecks beside feed-forwards."""

    def __init__(
        self, backbone: T5Backbone, bank: Bank | None = None, task: int = 0, *, parallel: bool = False
    ) -> None:
        self.weights = {name: weight.detach().double() for name, weight in backbone.model.state_dict().items()}
        generated = {} if bank is None else bank.tensors()
        self.generated = {name: tensor[task].detach().double() for name, tensor in generated.items()}
        self.parallel = parallel
        self.config = backbone.model.config

    def encode(self, tokens: Sequence[int]) -> Tensor:
        """The encoder's output, (token, d_model)."""
        state = self.weights["shared.weight"][list(tokens)]
        bias = self.position_bias("encoder", len(tokens))
        for layer in range(self.config.num_layers):
            block = f"encoder.block.{layer}.layer"
            state = self.attend(f"{block}.0", "SelfAttention", state, None, bias)
            state = self.feed_forward(f"{block}.1", state)
        return self.norm("encoder.final_layer_norm", state)

    def logits(self, memory: Tensor, written: Sequence[int]) -> Tensor:
        """Scores of the vocabulary after a start token and after each token written, (1 + written, vocabulary)."""
        tokens = [self.config.decoder_start_token_id, *written]
        state = self.weights["shared.weight"][tokens]
        bias = self.position_bias("decoder", len(tokens))
        bias = bias + torch.full((len(tokens), len(tokens)), -math.inf, dtype=torch.float64).triu(1)
        for layer in range(self.config.num_decoder_layers):
            block = f"decoder.block.{layer}.layer"
            state = self.attend(f"{block}.0", "SelfAttention", state, None, bias)
            state = self.attend(f"{block}.1", "EncDecAttention", state, memory, None)
            state = self.feed_forward(f"{block}.2", state)
        state = self.norm("decoder.final_layer_norm", state)
        if getattr(self.config, "scale_decoder_outputs", False):  # mT5 never does
            state = state / math.sqrt(self.config.d_model)
        return state @ self.weights["lm_head.weight"].T

    def greedy(self, memory: Tensor, length: int) -> list[int]:
        """So many likeliest tokens, one after the other."""
        written: list[int] = []
        for _ in range(length):
            written.append(int(self.logits(memory, written)[-1].argmax()))
        return written

    def beams(self, memory: Tensor, length: int, beams: int) -> list[int]:
        """The likeliest answer of so many tokens, none of which ends it, that a beam search finds."""
        kept: list[tuple[float, list[int]]] = [(0.0, [])]
        for _ in range(length):
            grown = []
            for score, written in kept:
                steps = self.logits(memory, written)[-1].log_softmax(-1)
                steps[self.config.eos_token_id] = -math.inf
                grown += [(score + float(step), [*written, token]) for token, step in enumerate(steps)]
            kept = sorted(grown, reverse=True)[:beams]
        return kept[0][1]

    def score(self, memory: Tensor, answer: Sequence[int]) -> float:
        """Log-probability of an answer, its end included."""
        steps = self.logits(memory, answer[:-1]).log_softmax(-1)
        return sum(float(step[token]) for step, token in zip(steps, answer, strict=True))

    def attend(self, sublayer: str, name: str, state: Tensor, memory: Tensor | None, bias: Tensor | None) -> Tensor:
        """x + Attention(LN x), head by head; the prefix stands before all keys, seen by all, without a bias."""
        heads, width = self.config.num_heads, self.config.d_kv
        read = self.norm(f"{sublayer}.layer_norm", state)
        source = read if memory is None else memory
        queries, keys, values = (
            x @ self.weights[f"{sublayer}.{name}.{part}.weight"].T
            for part, x in (("q", read), ("k", source), ("v", source))
        )
        joined = []
        for head in range(heads):
            own = slice(head * width, (head + 1) * width)
            scores = queries[:, own] @ keys[:, own].T
            if bias is not None:
                scores = scores + bias[head]
            seen = values[:, own]
            if f"{sublayer}.{name}.keys" in self.generated:
                scores = torch.cat([queries[:, own] @ self.generated[f"{sublayer}.{name}.keys"][head].T, scores], 1)
                seen = torch.cat([self.generated[f"{sublayer}.{name}.values"][head], seen])
            joined.append(scores.softmax(-1) @ seen)
        output = torch.cat(joined, 1) @ self.weights[f"{sublayer}.{name}.o.weight"].T
        return state + output + self.bottleneck(f"{sublayer}.dropout", output)

    def feed_forward(self, sublayer: str, state: Tensor) -> Tensor:
        """x + FFN(LN x), and an adapter that reads LN x too."""
        read, path = self.norm(f"{sublayer}.layer_norm", state), f"{sublayer}.DenseReluDense"
        if self.config.is_gated_act:
            first, second = (read @ self.weights[f"{path}.wi_{at}.weight"].T for at in (0, 1))
            hidden = self.activation(first) * second
        else:
            hidden = self.activation(read @ self.weights[f"{path}.wi.weight"].T)
        return state + hidden @ self.weights[f"{path}.wo.weight"].T + self.bottleneck(path, read)

    def bottleneck(self, place: str, x: Tensor) -> Tensor:
        """up(act(down(x))), if there is one here."""
        if f"{place}.down" not in self.generated:
            return torch.zeros_like(x)
        down, down_bias, up, up_bias = (self.generated[f"{place}.{part}"] for part in PARTS)
        rows = [up @ self.activation(down @ row + down_bias) + up_bias for row in x]
        return torch.stack(rows)

    def activation(self, x: Tensor) -> Tensor:
        """The model's own: ReLU, or GELU by its tanh form."""
        if self.config.dense_act_fn == "relu":
            return x.clamp(min=0)
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    def norm(self, name: str, x: Tensor) -> Tensor:
        """RMSNorm. T5 takes the mean square in fp32, whatever its type."""
        square = x.float().square().mean(-1, keepdim=True)
        return x * torch.rsqrt(square + self.config.layer_norm_epsilon) * self.weights[f"{name}.weight"]

    def position_bias(self, stack: str, length: int) -> Tensor:
        """Learned biases by distance, (head, query, key); the decoder looks back only."""
        table = self.weights[f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        bias = torch.zeros(self.config.num_heads, length, length, dtype=torch.float64)
        for query in range(length):
            for key in range(length):
                bias[:, query, key] = table[self.bucket(key - query, both_ways=stack == "encoder")]
        return bias

    def bucket(self, distance: int, both_ways: bool) -> int:
        """Which bias: one for each short distance, beyond that one for each of ever longer ranges."""
        buckets, offset = self.config.relative_attention_num_buckets, 0
        if both_ways:
            buckets //= 2
            offset, distance = (buckets if distance > 0 else 0), abs(distance)
        else:
            distance = max(-distance, 0)
        exact = buckets // 2
        if distance < exact:
            return offset + distance
        share = math.log(distance / exact) / math.log(self.config.relative_attention_max_distance / exact)
        return offset + min(exact + int(share * (buckets - exact)), buckets - 1)


PARTS = ("down", "down_bias", "up", "up_bias")
