"""The network: an encoder of any architecture that transformers knows, and a small head on its pooled output.

    [CLS] or mean of the last layer  ⊕  one-hot of the target model, lengths of earlier answers  →  head  →  outputs

This module does not know what the outputs mean, nor how the network is trained.
"""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedModel
from transformers.utils import logging

from ssjf.errors import ConfigError
from ssjf.predict.proxy.formulations import SCRATCH
from ssjf.predict.proxy.losses import Loss

MAX_LENGTH = 512
"""Tokens that BERT and most of its kin were trained on; longer texts are cut."""

_LEAST_WORDS = 0.5  # that a tokenizer knows, of those that its encoder has weights for
_SPECIAL = ("[PAD]", "[CLS]", "[SEP]")


class ProxyNetwork(nn.Module):
    """Encoder and head.

    Args:
        encoder: from transformers; gives `last_hidden_state`.
        num_side_features: numbers beside the pooled ones.
        num_outputs: of the head.
        hidden: widths of the head's layers, each followed by a ReLU; none make it linear.
        pooling: "cls" or "mean".
        loss: None where nobody trains.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        num_side_features: int,
        num_outputs: int,
        hidden: Sequence[int],
        pooling: str,
        loss: Loss | None = None,
    ) -> None:
        super().__init__()
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None  # pre-trained for another task, and not what is pooled here
        self.encoder, self.loss, self._pooling = encoder, loss, pooling
        width: int = encoder.config.hidden_size
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        widths = [width + num_side_features, *hidden]
        layers: list[nn.Module] = []
        for before, after in zip(widths, hidden, strict=False):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.head = nn.Sequential(*layers, nn.Linear(widths[-1], num_outputs))

    def begin_at(self, outputs: npt.ArrayLike) -> None:
        """Have the untrained head give about these outputs: quantiles that begin together are long in parting."""
        with torch.no_grad():
            self.head[-1].bias.copy_(torch.as_tensor(np.asarray(outputs)))

    def pool(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """One vector for each row; shape (n, hidden size)."""
        hidden: Tensor = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self._pooling == "cls":
            return hidden[:, 0]
        if attention_mask is None:
            return hidden.mean(dim=1)
        weights = attention_mask[:, :, None].to(hidden.dtype)
        return (hidden * weights).sum(dim=1) / weights.sum(dim=1)

    def outputs(self, pooled: Tensor, side: Tensor) -> Tensor:
        """What the head makes of pooled vectors and side features; shape (n, num_outputs)."""
        outputs: Tensor = self.head(torch.cat([(pooled - self.centre) / self.spread, side], dim=1))
        return outputs

    def forward(
        self,
        side: Tensor,
        *,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pooled: Tensor | None = None,
        labels: Tensor | None = None,
        num_output_tokens: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Outputs for texts, or for vectors pooled before, and the loss where labels are given.

        True lengths travel with the labels for those who measure; they are not looked at.
        """
        if pooled is None:
            assert input_ids is not None
            pooled = self.pool(input_ids, attention_mask)
        outputs = self.outputs(pooled, side)
        if labels is None or self.loss is None:
            return {"outputs": outputs}
        return {"loss": self.loss(outputs, labels), "outputs": outputs}

    def standardize(self, pooled: Tensor) -> None:
        """Have pooled vectors like these reach the head with mean 0 and variance 1."""
        self.centre.copy_(pooled.mean(dim=0))
        self.spread.copy_(pooled.std(dim=0).clamp_min(1e-3))


def load_encoder(name: str, texts: Iterable[str], *, seed: int) -> tuple[nn.Module, Tokenizer, int]:
    """An encoder with its tokenizer, and how many tokens it takes at most.

    Args:
        name: a folder as transformers saves it, a name on the Hugging Face hub, or `SCRATCH`.
        texts: training prompts: what a new tokenizer is made from.
        seed: of new weights.

    Raises:
        ConfigError: there is no encoder of that name, or it is not one.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if name == SCRATCH:
        encoder, tokenizer = new_encoder(texts, seed=seed)
        return encoder, tokenizer, MAX_LENGTH
    try:
        encoder = AutoModel.from_pretrained(name)
        fast = AutoTokenizer.from_pretrained(name)
        tokenizer = Tokenizer.from_str(fast.backend_tokenizer.to_str())
        limit = _longest(encoder, min(MAX_LENGTH, fast.model_max_length))
        num_words = tokenizer.get_vocab_size()
        if num_words < _LEAST_WORDS * encoder.config.vocab_size:  # what transformers makes where there are no files
            raise ValueError(f"its tokenizer knows {num_words} words and its weights {encoder.config.vocab_size}")
    except Exception as error:  # noqa: BLE001 - damaged files fail in as many ways as there are libraries
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"no encoder {name!r}: {reason} (--encoder takes a folder saved by transformers, with config.json, weights "
            f"and tokenizer.json, or a name on the Hugging Face hub where that can be reached, or {SCRATCH!r})"
        ) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return encoder, tokenizer, limit


def _longest(encoder: PreTrainedModel, wanted: int) -> int:
    """How many tokens it takes at once; some count positions from behind the padding's."""
    most = getattr(encoder.config, "max_position_embeddings", wanted)
    for limit in (min(most, wanted), most - 1 - (encoder.config.pad_token_id or 0)):
        with contextlib.suppress(IndexError, RuntimeError), torch.inference_mode():
            encoder(input_ids=torch.ones((1, limit), dtype=torch.long))
            return limit
    raise ValueError(f"it cannot be run on {limit} tokens")


def new_encoder(
    texts: Iterable[str],
    *,
    seed: int = 0,
    vocab_size: int = 8192,
    hidden_size: int = 128,
    num_layers: int = 2,
    num_heads: int = 2,
) -> tuple[nn.Module, Tokenizer]:
    """A BERT with random weights and a vocabulary of these texts; by default of bert-tiny's size.

    The vocabulary is of byte pairs: the trainer of word pieces breaks ties differently each time.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    clean = (text.encode("utf-8", "replace").decode() for text in texts)
    tokenizer.train_from_iterator(clean, trainer)
    separator, classifier = ((token, _SPECIAL.index(token)) for token in ("[SEP]", "[CLS]"))
    tokenizer.post_processor = processors.BertProcessing(separator, classifier)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        intermediate_size=4 * hidden_size,
        max_position_embeddings=MAX_LENGTH,
    )
    return BertModel(config, add_pooling_layer=False), tokenizer


def network_from(state: Mapping[str, Any], weights: Mapping[str, Tensor]) -> ProxyNetwork:
    """The network of a saved predictor again, to be examined or trained further.

    Args:
        state: the card's ``state``.
        weights: what ``model.safetensors`` holds.
    """
    config = dict(state["network"]["encoder"])
    encoder = AutoModel.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
    network = ProxyNetwork(encoder, **{key: value for key, value in state["network"].items() if key != "encoder"})
    network.load_state_dict(dict(weights))
    network.eval()
    return network
