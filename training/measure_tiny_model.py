"""Measure a trained model through the engine and write its card: `python -m training.measure_tiny_model out/tiny`.

The folder holds what `train_tiny_model` left there; `card.json` is added. Answers are greedy, so that the card's
figures can be reproduced, and the prompts are from the "demo" split, which the model has not seen.
"""

import argparse
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openvino_genai
from training.vocabulary import END, chat_prompt

from ssjf.workload.generated.instructions import Instruction, generate

MAX_NEW_TOKENS = 1200


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredAnswer:
    """What the model answered to one instruction.

    Attributes:
        instruction: What was asked, with the reference answer.
        text: The model's answer.
        num_output_tokens: Its length, the end-of-sequence token included.
        intended_tokens: Length of the reference answer, likewise, as the engine cuts it: some per cent more than as the
            model writes it where the answer has many lines (see `training.vocabulary`).
        ended: Whether the model ended by itself.
    """

    instruction: Instruction
    text: str
    num_output_tokens: int
    intended_tokens: int
    ended: bool


def answer(model: Path, instructions: list[Instruction]) -> list[MeasuredAnswer]:
    """Let the engine answer all instructions greedily."""
    tokenizer = openvino_genai.Tokenizer(str(model))
    scheduling = openvino_genai.SchedulerConfig()
    scheduling.cache_size = 1  # GB
    # Full precision: the answer does not depend on what else is in the batch. (In bfloat16 one thread crashes, too.)
    pipeline = openvino_genai.ContinuousBatchingPipeline(
        str(model), tokenizer, scheduling, "CPU", INFERENCE_NUM_THREADS=1, INFERENCE_PRECISION_HINT="f32"
    )
    generation = openvino_genai.GenerationConfig()
    generation.max_new_tokens = MAX_NEW_TOKENS
    generation.stop_token_ids = {tokenizer.get_eos_token_id()}

    def encode(text: str) -> "openvino_genai.TokenizedInputs":
        return tokenizer.encode(text, add_special_tokens=False)

    prompts = [encode(chat_prompt(item.prompt)).input_ids for item in instructions]
    results = pipeline.generate(prompts, [generation] * len(prompts))
    measured = []
    for item, result in zip(instructions, results, strict=True):
        token_ids = list(result.m_generation_ids[0])
        measured.append(
            MeasuredAnswer(
                instruction=item,
                text=tokenizer.decode(token_ids),
                num_output_tokens=len(token_ids),
                intended_tokens=encode(item.answer + END).input_ids.shape[1],
                ended=len(token_ids) < MAX_NEW_TOKENS,
            )
        )
    return measured


def summary(answers: list[MeasuredAnswer]) -> dict[str, object]:
    """Figures for the card: ends, lengths in tokens, and how often the answer is exactly the reference."""
    lengths = np.array([item.num_output_tokens for item in answers])
    intended = np.array([item.intended_tokens for item in answers])
    exact: dict[str, list[bool]] = {}
    for item in answers:
        exact.setdefault(item.instruction.kind, []).append(item.text == item.instruction.answer)
    return {
        "end_of_sequence_rate": float(np.mean([item.ended for item in answers])),
        "output_tokens": {
            "mean": round(float(lengths.mean()), 1),
            **{f"p{level}": round(float(np.percentile(lengths, level)), 1) for level in (5, 50, 90, 99)},
            "max": int(lengths.max()),
        },
        "share_of_400_tokens_or_more": float(np.mean(lengths >= 400)),
        "log_correlation_with_intended_length": round(float(np.corrcoef(np.log(lengths), np.log(intended))[0, 1]), 4),
        "share_exactly_right": float(np.mean([hit for hits in exact.values() for hit in hits])),
        "share_exactly_right_by_kind": {kind: round(float(np.mean(hits)), 3) for kind, hits in sorted(exact.items())},
    }


def write_card(folder: Path, *, count: int, seed: int) -> dict[str, object]:
    """Measure `tiny.gguf` in `folder` on `count` held-out prompts and write `card.json` beside it."""
    model = folder / "tiny.gguf"
    settings = json.loads((folder / "settings.json").read_text())
    card = {
        "name": "ssjf-tiny",
        "licence": "Apache-2.0",
        "purpose": (
            "Comes with the package, so that scheduling can be tried without a download. "
            "It speaks the language of ssjf.workload.generated.instructions and nothing else; do not ask it for facts."
        ),
        "limits": (
            "Counting and sums are mostly wrong; about two answers in a thousand run on to the limit. "
            "Of a conversation of several turns only the last question matters."
        ),
        "data": "ssjf.workload.generated.instructions.generate('train', ...), made up by rule, nothing downloaded",
        "made_by": "python -m training.train_tiny_model; python -m training.measure_tiny_model",
        "file_bytes": model.stat().st_size,
        "file_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        **settings,
        "measured": {
            "prompts": {"split": "demo", "count": count, "seed": seed},
            "decoding": f"greedy, at most {MAX_NEW_TOKENS} tokens, openvino-genai {openvino_genai.__version__}, f32",
            **summary(answer(model, generate("demo", count, seed))),
        },
    }
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    return card


def main() -> None:
    """Read the command line, measure, print the card."""
    parser = argparse.ArgumentParser(description="Measure a trained model and write its card.")
    parser.add_argument("folder", type=Path, help="folder with tiny.gguf and settings.json")
    parser.add_argument("--count", type=int, default=500, help="held-out prompts to ask")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(json.dumps(write_card(arguments.folder, count=arguments.count, seed=arguments.seed), indent=2))


if __name__ == "__main__":
    main()
