"""A Llama of about two million parameters, written out in full: what is trained here is what the engine runs.

The module knows the architecture only: rotary positions, RMS norms, gated feed-forward layers, tied embeddings. It does
not know the language the model speaks (`ssjf.workload.generated.instructions`) nor the file it is saved to
(`export_gguf`).
Source of the architecture: Touvron et al., "LLaMA: Open and Efficient Foundation Language Models", section 2.2.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaConfig:
    """Sizes of the model.

    Attributes:
        vocab_size: Tokens in the vocabulary, special ones included.
        hidden_size: Width of the residual stream.
        intermediate_size: Width inside the feed-forward layers.
        num_layers: Number of transformer blocks.
        num_heads: Attention heads; `hidden_size / num_heads` must be an even number.
        context_length: Positions the model is declared to handle; rotary positions have no table to run out of.
        rope_theta: Base of the rotary frequencies.
        rms_norm_eps: Added to the mean square before its root.
    """

    vocab_size: int = 1024
    hidden_size: int = 192
    intermediate_size: int = 512
    num_layers: int = 4
    num_heads: int = 6
    context_length: int = 2048
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-5

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads


def _rotary_tables(config: LlamaConfig, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles, each of shape (length, head_size)."""
    frequencies = config.rope_theta ** (-torch.arange(0, config.head_size, 2).float() / config.head_size)
    angles = torch.outer(torch.arange(length).float(), frequencies)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn each pair (i, i + head_size / 2) of `x`, shape (batch, heads, length, head_size), by its angle."""
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat((-second, first), dim=-1) * sines


class _Block(nn.Module):
    """One transformer block: attention, then a gated feed-forward layer, each behind its own norm."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.num_heads, self.head_size = config.num_heads, config.head_size
        self.attn_norm = nn.RMSNorm(width, eps=config.rms_norm_eps)
        self.attn_q = nn.Linear(width, width, bias=False)
        self.attn_k = nn.Linear(width, width, bias=False)
        self.attn_v = nn.Linear(width, width, bias=False)
        self.attn_output = nn.Linear(width, width, bias=False)
        self.ffn_norm = nn.RMSNorm(width, eps=config.rms_norm_eps)
        self.ffn_gate = nn.Linear(width, inner, bias=False)
        self.ffn_up = nn.Linear(width, inner, bias=False)
        self.ffn_down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, cosines: Tensor, sines: Tensor, visible: Tensor) -> Tensor:
        """Map (batch, length, hidden_size) to the same shape; each position sees those that are `visible` to it."""
        batch, length, width = x.shape
        normed = self.attn_norm(x)
        query, key, value = (
            projection(normed).view(batch, length, self.num_heads, self.head_size).transpose(1, 2)
            for projection in (self.attn_q, self.attn_k, self.attn_v)
        )
        query, key = _rotate(query, cosines, sines), _rotate(key, cosines, sines)
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        x = x + self.attn_output(attended.transpose(1, 2).reshape(batch, length, width))
        normed = self.ffn_norm(x)
        gated: Tensor = functional.silu(self.ffn_gate(normed)) * self.ffn_up(normed)
        return x + self.ffn_down(gated)  # type: ignore[no-any-return]


class TinyLlama(nn.Module):
    """The model. Its parameters bear the names that the GGUF format gives them (`blk.0.attn_q.weight`, ...)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embd = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blk = nn.ModuleList(_Block(config) for _ in range(config.num_layers))
        self.output_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        nn.init.normal_(self.token_embd.weight, std=config.hidden_size**-0.5)
        for name, parameter in self.blk.named_parameters():
            if parameter.dim() == 2:
                # Outputs keep the variance of inputs; what is added to the residual stream is scaled by its additions.
                additions = 2 * config.num_layers if name.endswith(("attn_output.weight", "ffn_down.weight")) else 1
                nn.init.normal_(parameter, std=(parameter.shape[1] * additions) ** -0.5)

    def forward(self, token_ids: Tensor, documents: Tensor | None = None) -> Tensor:
        """Compute the final hidden states, shape (batch, length, hidden_size).

        Args:
            token_ids: Shape (batch, length).
            documents: Number of the document that each token belongs to, same shape: tokens see only their own
                document. None: each row is one document.
        """
        length = token_ids.shape[1]
        visible = torch.ones(length, length, dtype=torch.bool).tril()
        if documents is not None:
            visible = visible & (documents[:, None, :, None] == documents[:, None, None, :])
        cosines, sines = _rotary_tables(self.config, length)
        x = self.token_embd(token_ids)
        for block in self.blk:
            x = block(x, cosines, sines, visible)
        return self.output_norm(x)  # type: ignore[no-any-return]

    def answer_loss(self, token_ids: Tensor, targets: Tensor, weights: Tensor, documents: Tensor) -> Tensor:
        """Weighted sum of the cross-entropy, in nats, over the positions of positive weight.

        The output layer (tied to the embedding) is applied to those positions only: prompts and padding cost nothing.

        Args:
            token_ids: Input tokens, shape (batch, length).
            targets: The token expected next at each position, same shape.
            weights: How much each position counts, same shape; 0 where nothing is to be learned.
            documents: Number of the document that each token belongs to, same shape.
        """
        learned = weights > 0
        logits = functional.linear(self(token_ids, documents)[learned], self.token_embd.weight)
        losses = functional.cross_entropy(logits.float(), targets[learned], reduction="none")
        return (losses * weights[learned]).sum()
