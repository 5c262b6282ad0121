"""Train the bundled model on generated instructions: `python -m training.train_tiny_model --out out/tiny`.

Writes the model (`tiny.gguf`, also at every checkpoint, so an interrupted run leaves a usable file) and the settings
that made it (`settings.json`). `python -m training.measure_tiny_model` then measures it and writes the model card. The
same settings on the same machine and library versions give the same model.
"""

import argparse
import dataclasses
import json
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer
from torch import Tensor
from training.export_gguf import export_gguf
from training.tiny_llama import LlamaConfig, TinyLlama
from training.vocabulary import END, chat_prompt, token_id, train_tokenizer

from ssjf.workload.generated.instructions import Instruction, generate

SYSTEM_MESSAGES = (
    "You are a helpful assistant.",
    "You are a friendly teacher.",
    "Answer the question.",
    "Be kind and clear.",
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """Everything that decides the result.

    Attributes:
        seed: Of the instructions, the initial weights and the order.
        steps: Optimiser steps; fresh instructions are drawn for each.
        short_rows: Sequences of `short_length` tokens per step, packed with what fits into so many tokens.
        short_length: Tokens of a short sequence; attention in it is cheap.
        long_rows: Sequences of `long_length` tokens per step, packed with what does not fit into a short one.
        long_length: Tokens of a long sequence; what is longer still is left out.
        peak_learning_rate: Of AdamW, reached after `warmup_steps`, then falling to a twentieth along a cosine.
        warmup_steps: Steps of linearly rising learning rate.
        weight_decay: Of AdamW, on matrices only.
        end_weight: How much the end of an answer counts, compared with its other tokens.
        system_share: Share of conversations that begin with a system message.
        follow_up_share: Share of questions asked in the conversation before them, where they fit.
        plain_share: Share of questions without chat marks, answered on the next line (for `/v1/completions`).
    """

    seed: int = 0
    steps: int = 1600
    short_rows: int = 6
    short_length: int = 256
    long_rows: int = 1
    long_length: int = 1024
    peak_learning_rate: float = 2e-3
    warmup_steps: int = 80
    weight_decay: float = 0.05
    end_weight: float = 4.0
    system_share: float = 0.05
    plain_share: float = 0.05
    follow_up_share: float = 0.1

    def learning_rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.peak_learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.peak_learning_rate * (0.525 + 0.475 * math.cos(math.pi * progress))


@dataclasses.dataclass(frozen=True, slots=True)
class Turn:
    """One question and its answer in tokens.

    Attributes:
        question: The question with its marks.
        answer: The answer with its end.
        follows_up: Whether it is asked in the same conversation as the turn before it, where both are in one row.
    """

    question: list[int]
    answer: list[int]
    follows_up: bool

    def __len__(self) -> int:
        return len(self.question) + len(self.answer)


@dataclasses.dataclass(slots=True)
class Row:
    """One sequence: tokens, their weights in the loss, and the number of the conversation that each belongs to."""

    tokens: list[int] = dataclasses.field(default_factory=list)
    weights: list[float] = dataclasses.field(default_factory=list)
    conversations: list[int] = dataclasses.field(default_factory=list)

    def append(self, tokens: list[int], weights: list[float], conversation: int) -> None:
        """Add tokens of one conversation."""
        self.tokens += tokens
        self.weights += weights
        self.conversations += [conversation] * len(tokens)


def encoded_turns(instructions: Sequence[Instruction], tokenizer: Tokenizer, settings: TrainingSettings) -> list[Turn]:
    """Put instructions into the marks of a conversation and encode them."""
    rng = random.Random(settings.seed)
    end = token_id(tokenizer, END)
    turns = []
    for instruction in instructions:
        manner = rng.random()
        if manner < settings.plain_share:
            asked = f"{instruction.prompt}\n"
        elif manner < settings.plain_share + settings.system_share:
            asked = chat_prompt(instruction.prompt, system=rng.choice(SYSTEM_MESSAGES))
        else:
            asked = chat_prompt(instruction.prompt)
        follows_up = rng.random() < settings.follow_up_share
        turns.append(Turn(tokenizer.encode(asked).ids, [*tokenizer.encode(instruction.answer).ids, end], follows_up))
    return turns


def packed_rows(turns: Iterable[Turn], length: int, end_weight: float) -> Iterator[Row]:
    """Pack turns, uncut and in order, into rows of `length` tokens; the last row, not yet full, is dropped.

    Only answers weigh, each token by one over the square root of the answer's length: one-word answers would drown in
    stories otherwise. Ends weigh more, because a missed one costs hundreds of wrong tokens.
    """
    row = Row()
    for number, turn in enumerate(turns):
        if len(row.tokens) + len(turn) > length:
            padding = length - len(row.tokens)
            row.append([0] * padding, [0.0] * padding, -1)
            yield row
            row = Row()
        conversation = row.conversations[-1] if turn.follows_up and row.conversations else number
        weight = len(turn.answer) ** -0.5
        row.append(turn.question, [0.0] * len(turn.question), conversation)
        row.append(turn.answer, [weight] * (len(turn.answer) - 1) + [weight * end_weight], conversation)


Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def _batch(rows: list[Row]) -> Batch:
    """Inputs, targets, weights of the targets and conversations of the inputs; of shape (rows, length - 1) each."""
    tokens = torch.tensor([row.tokens for row in rows])
    weights = torch.tensor([row.weights for row in rows])
    conversations = torch.tensor([row.conversations for row in rows])
    return tokens[:, :-1], tokens[:, 1:], weights[:, 1:], conversations[:, :-1]


def batches(tokenizer: Tokenizer, settings: TrainingSettings) -> Iterator[tuple[Batch, Batch]]:
    """Yield what each step learns from: a batch of short rows and one of long rows."""
    tokens_per_step = settings.short_rows * settings.short_length + settings.long_rows * settings.long_length
    # A turn has 110 tokens on average. Half as many again are drawn, so that neither kind of row runs out.
    instructions = generate("train", settings.steps * tokens_per_step // 70 + 500, settings.seed)
    turns = encoded_turns(instructions, tokenizer, settings)
    short = (turn for turn in turns if len(turn) <= settings.short_length)
    long = (turn for turn in turns if settings.short_length < len(turn) <= settings.long_length)
    short_rows = packed_rows(short, settings.short_length, settings.end_weight)
    long_rows = packed_rows(long, settings.long_length, settings.end_weight)
    for _ in range(settings.steps):
        yield (
            _batch(list(islice(short_rows, settings.short_rows))),
            _batch(list(islice(long_rows, settings.long_rows))),
        )


def train(
    settings: TrainingSettings, config: LlamaConfig, out: Path, *, checkpoint_every: int = 200
) -> tuple[TinyLlama, list[float]]:
    """Train a model and leave `tiny.gguf` and `settings.json` in the folder `out`.

    Returns:
        The model and the training loss of each step, in nats per token.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    sample = generate("train", 8000, settings.seed)
    tokenizer = train_tokenizer((f"{item.prompt}\n{item.answer}" for item in sample), config.vocab_size)
    config = dataclasses.replace(config, vocab_size=tokenizer.get_vocab_size())
    (out / "settings.json").write_text(
        json.dumps({"training": dataclasses.asdict(settings), "model": dataclasses.asdict(config)}, indent=2) + "\n"
    )
    model = TinyLlama(config)
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    norms = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    losses: list[float] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("training", total=settings.steps)
        for step, parts in enumerate(batches(tokenizer, settings)):
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate(step)
            optimizer.zero_grad()
            step_loss = 0.0
            total_weight = sum(float(weights.sum()) for _, _, weights, _ in parts)
            for inputs, targets, weights, conversations in parts:
                with torch.autocast("cpu", torch.bfloat16):
                    loss = model.answer_loss(inputs, targets, weights, conversations) / total_weight
                loss.backward()  # type: ignore[no-untyped-call]
                step_loss += loss.item()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(step_loss)
            progress.update(task, advance=1, description=f"loss {losses[-1]:.3f}")
            if (step + 1) % checkpoint_every == 0 or step + 1 == settings.steps:
                export_gguf(model, tokenizer, out / "tiny.gguf", name="ssjf-tiny")
                progress.console.print(f"step {step + 1}: loss {sum(losses[-50:]) / len(losses[-50:]):.4f}")
    return model, losses


def main() -> None:
    """Read the command line and train."""
    defaults = TrainingSettings()
    parser = argparse.ArgumentParser(description="Train the bundled model.")
    parser.add_argument("--out", type=Path, default=Path("out/tiny"), help="folder to write to")
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--threads", type=int, default=1, help="more than one pays only on cores that nobody else uses")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(TrainingSettings(steps=arguments.steps, seed=arguments.seed), LlamaConfig(), arguments.out)


if __name__ == "__main__":
    main()
