"""Training of `proxy` and `embedding` predictors on transformers' Trainer.

One trainer for all formulations; several GPUs through the launcher of the ecosystem (``accelerate launch``, torchrun).
What is calibrated on validation data is the exported graph that will be served, not the network it came from.
Deterministic for a seed on the same machine and number of threads. This module reads no data files.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import PartialState
from torch import Tensor, nn
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import get_last_checkpoint

from ssjf.errors import ConfigError, DataError, did_you_mean
from ssjf.metrics.rank import kendall_tau_b
from ssjf.predict.proxy.decoders import ClassDecoder, finite, fit_decoder
from ssjf.predict.proxy.export import to_int8, to_onnx, to_safetensors
from ssjf.predict.proxy.formulations import EMBEDDING, FORMULATIONS, PRESETS, Settings, Targets
from ssjf.predict.proxy.losses import Loss
from ssjf.predict.proxy.network import ProxyNetwork, load_encoder
from ssjf.predict.proxy.predictor import (
    FORMAT,
    INT8,
    SINGLE,
    TOKENIZER,
    TORCH,
    EmbeddingPredictor,
    ProxyPredictor,
    Runner,
)
from ssjf.predict.proxy.text import NUM_HISTORY_FEATURES, TRUNCATIONS, Encoder, side_features
from ssjf.predict.training import Fitter, Progress, Sample, as_request, split_by_prompt

_INT8_TOLERANCE = 0.01  # of Kendall's tau-b that eight bits may cost before single precision is served
_FINGERPRINT = "ssjf-run.json"


def fitter(family: str, preset: str | None, given: Mapping[str, Any], *, checkpoints: Path) -> Fitter:
    """How to train a predictor of this family, for `ssjf.predict.training.train`.

    Args:
        family: "proxy" or "embedding".
        preset: one of `PRESETS`; the family embedding has only one of its own.
        given: settings that replace the preset's.
        checkpoints: see `fit`.

    Raises:
        ConfigError: a setting is wrong.
    """
    presets = {"default": EMBEDDING} if family == EmbeddingPredictor.family else PRESETS
    if (preset or "default") not in presets:
        raise ConfigError(f"no preset {preset!r} of the family {family}; {did_you_mean(preset or '', presets)}")
    settings = dataclasses.replace(presets[preset or "default"], **given)
    for value, known in ((settings.formulation, FORMULATIONS), (settings.truncation, TRUNCATIONS)):
        if value not in known:
            raise ConfigError(f"no {value!r}; {did_you_mean(value, known)}")
    return partial(fit, settings=settings, checkpoints=checkpoints)


def fit(
    samples: Sequence[Sample],
    *,
    settings: Settings,
    checkpoints: Path,
    seed: int = 0,
    progress: Progress = lambda _: None,
) -> tuple[ProxyPredictor, dict[str, Any]]:
    """Train on the samples, a part of which chooses the best epoch and calibrates.

    Args:
        samples: of two distinct prompts at least.
        settings: how.
        checkpoints: folder to resume from, if training with the same samples and settings was interrupted there; it is
            removed at the end.
        seed: of the split, new weights and the order of samples.
        progress: told in a few words what happens next.

    Returns:
        The predictor, and what the card tells about its training.

    Raises:
        ConfigError: the encoder cannot be loaded.
        DataError: the lengths are all alike, or training went astray.
        SystemExit: with code 0, in all but the main process of a distributed run.
    """
    if not PartialState().is_main_process:
        progress = _say_nothing
    training, validation = split_by_prompt(samples, share=settings.validation, seed=seed)
    if len(training) < 2 or len(validation) < 2:
        raise DataError(f"{len(samples)} samples are too few to train on some and check on others")
    formulation = FORMULATIONS[settings.formulation]
    targets = Targets(
        settings.formulation,
        [sample.num_output_tokens for sample in training],
        unit=settings.unit,
        percentiles=formulation.paper_percentiles if settings.paper_classes else None,
    )
    set_seed(seed)
    progress(f"loading the encoder {settings.encoder}")
    encoder, tokenizer, max_length = load_encoder(settings.encoder, [s.prompt for s in training], seed=seed)
    models = sorted({sample.model for sample in training} - {""})
    target_models = models if len(models) > 1 else []  # of a single one there is nothing to tell apart
    shape: dict[str, Any] = {
        "num_side_features": len(target_models) + NUM_HISTORY_FEATURES,
        "num_outputs": targets.num_outputs,
        "hidden": list(settings.hidden),
        "pooling": settings.pooling,
    }
    network = ProxyNetwork(encoder, **shape, loss=Loss(targets))
    network.begin_at(targets.first_outputs())
    encode = Encoder.around(tokenizer, max_length=max_length, truncation=settings.truncation)
    rows = [_rows(part, encode, target_models, targets) for part in (training, validation)]
    if settings.frozen:
        progress(f"embedding {len(samples)} prompts")
        _embed(network, rows, pad=_pad_id(encoder))

    def metrics(prediction: EvalPrediction) -> dict[str, float]:
        # not in the order of the rows, where batches are of similar length; hence the truth among the labels
        return {"tau_b": ranking_of(targets, prediction.predictions, prediction.label_ids[1])}

    epochs = _train(
        network,
        rows,
        metrics=metrics,
        settings=settings,
        seed=seed,
        checkpoints=checkpoints,
        fingerprint=_fingerprint(samples, settings, seed),
        progress=progress,
    )

    progress(f"exporting to ONNX, and calibrating on {len(validation)} samples")
    frame = {"target_models": target_models, "max_length": max_length, "truncation": settings.truncation}
    predictor, quality = _served(network, tokenizer, targets, validation, frame=frame, shape=shape)
    if settings.frozen:
        predictor = EmbeddingPredictor.restore(*predictor.state())
    shutil.rmtree(checkpoints, ignore_errors=True)
    about = {
        "family": predictor.family,
        "seed": seed,
        **dataclasses.asdict(settings),
        **targets.about(),
        "train": len(training),
        "validation_samples": len(validation),
        **quality,
        "epochs_run": epochs,
    }
    return predictor, about


def _served(
    network: ProxyNetwork,
    tokenizer: Any,
    targets: Targets,
    validation: Sequence[Sample],
    *,
    frame: Mapping[str, Any],
    shape: Mapping[str, Any],
) -> tuple[ProxyPredictor, dict[str, Any]]:
    """The trained network as it will be served, calibrated on validation samples; and how good it is on them."""
    single = to_onnx(network, frame["max_length"])
    graphs = {"float32": single, "int8": to_int8(single)}
    tokenizer_json = tokenizer.to_str().encode()
    lengths = np.array([sample.num_output_tokens for sample in validation])
    requests = [as_request(sample) for sample in validation]
    outputs = {name: Runner(graph, tokenizer_json, **frame).outputs(requests) for name, graph in graphs.items()}
    ranking = {name: ranking_of(targets, outputs[name], lengths) for name in graphs}
    precision = "int8" if ranking["int8"] >= ranking["float32"] - _INT8_TOLERANCE else "float32"
    decoder = fit_decoder(targets, outputs[precision], lengths)
    state = {
        "format": FORMAT,
        **frame,
        "precision": precision,
        "decoder": decoder.to_json(),
        "network": {"encoder": json.loads(network.encoder.config.to_json_string()), **shape},
    }
    files = {TOKENIZER: tokenizer_json, SINGLE: single, INT8: graphs["int8"], TORCH: to_safetensors(network)}
    predictor = ProxyPredictor({name: np.frombuffer(content, np.uint8) for name, content in files.items()}, state)
    quality: dict[str, Any] = {"validation_tau_b": ranking}
    if isinstance(decoder, ClassDecoder):
        predicted = decoder.probabilities(outputs[precision]).argmax(axis=1)
        quality |= class_quality(targets.classes(lengths), predicted)
    return predictor, quality


def _say_nothing(_: str) -> None:
    """One process of a distributed run tells how it goes."""


def ranking_of(targets: Targets, outputs: Any, num_output_tokens: Any) -> float:
    """Kendall's tau-b of raw outputs with the truth; 0 where one of them is all ties."""
    rows = finite(outputs)
    # one column orders as it is; several are first read as expected tokens
    scores = rows[:, 0] if targets.num_outputs == 1 else fit_decoder(targets, rows, num_output_tokens).scores(rows)
    return kendall_tau_b(scores, np.asarray(num_output_tokens, np.float64)) or 0.0


def class_quality(truth: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64]) -> dict[str, float]:
    """Accuracy, and F1 averaged over the classes that occur in either."""
    scores = []
    for index in np.union1d(truth, predicted):
        both = np.sum((truth == index) & (predicted == index))
        scores.append(2 * both / (np.sum(truth == index) + np.sum(predicted == index)))
    return {"validation_accuracy": float(np.mean(truth == predicted)), "validation_macro_f1": float(np.mean(scores))}


Row = dict[str, Any]


def _rows(samples: Sequence[Sample], encode: Encoder, target_models: Sequence[str], targets: Targets) -> list[Row]:
    labels = targets.labels([sample.num_output_tokens for sample in samples])
    return [
        {
            "input_ids": encode.ids(sample.prompt),
            "side": side_features(sample.prompt, sample.model, target_models),
            "labels": float(label),
            "num_output_tokens": sample.num_output_tokens,
        }
        for sample, label in zip(samples, labels, strict=True)
    ]


def _pad_id(encoder: nn.Module) -> int:
    return int(getattr(encoder.config, "pad_token_id", None) or 0)


class _Collate:
    """Rows to tensors; texts are padded to the longest."""

    def __init__(self, pad: int) -> None:
        self._pad = pad

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        batch = {
            "side": torch.from_numpy(np.stack([row["side"] for row in rows])),
            "labels": torch.tensor([row["labels"] for row in rows], dtype=torch.float32),
            "num_output_tokens": torch.tensor([row["num_output_tokens"] for row in rows]),
        }
        if "pooled" in rows[0]:
            return batch | {"pooled": torch.stack([row["pooled"] for row in rows])}
        width = max(len(row["input_ids"]) for row in rows)
        ids = [row["input_ids"] + [self._pad] * (width - len(row["input_ids"])) for row in rows]
        mask = [[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in rows]
        return batch | {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def _embed(network: ProxyNetwork, parts: Sequence[list[Row]], *, pad: int) -> None:
    """Run the encoder once over all rows; from then on only the head is trained."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device).eval().encoder.requires_grad_(requires_grad=False)
    collate = _Collate(pad)
    with torch.no_grad():
        for rows in parts:
            for start in range(0, len(rows), 32):
                some = rows[start : start + 32]
                batch = collate(some)
                pooled = network.pool(batch["input_ids"].to(device), batch["attention_mask"].to(device)).cpu()
                for row, vector in zip(some, pooled, strict=True):
                    row["pooled"] = vector
        network.standardize(torch.stack([row["pooled"] for row in parts[0]]))


def _train(
    network: ProxyNetwork,
    rows: Sequence[list[Row]],
    *,
    metrics: Callable[[EvalPrediction], dict[str, float]],
    settings: Settings,
    seed: int,
    checkpoints: Path,
    fingerprint: str,
    progress: Progress,
) -> float:
    """Train the network in place, on rows[0], to its best epoch on rows[1]; returns the number of epochs run."""
    processes = PartialState()
    if processes.is_main_process:
        _keep_only(checkpoints, fingerprint)
    processes.wait_for_everyone()
    cuda = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        weight_decay=settings.weight_decay,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        train_sampling_strategy="group_by_length" if settings.by_length and not settings.frozen else "random",
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="tau_b",
        greater_is_better=True,
        seed=seed,
        data_seed=seed,
        use_cpu=not cuda,
        dataloader_pin_memory=cuda,
        remove_unused_columns=False,
        label_names=["labels", "num_output_tokens"],
        # parameters that stop being trained would otherwise be waited for by every process
        ddp_find_unused_parameters=settings.freeze_after is not None or settings.frozen,
        report_to="none",
        disable_tqdm=True,
    )
    callbacks: list[TrainerCallback] = [_Report(progress, settings.epochs), EarlyStoppingCallback(settings.patience)]
    if settings.freeze_after is not None:
        callbacks.append(_Freeze(settings.freeze_after, settings.frozen_learning_rate))
    trainer = Trainer(
        model=network,
        args=arguments,
        data_collator=_Collate(_pad_id(network.encoder)),
        train_dataset=rows[0],
        eval_dataset=rows[1],
        compute_metrics=metrics,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    last = get_last_checkpoint(str(checkpoints))
    if last is not None:
        progress(f"resuming from {last}")
    trainer.train(resume_from_checkpoint=last)
    if not processes.is_main_process:
        raise SystemExit(0)
    return float(trainer.state.epoch or 0.0)


def _keep_only(checkpoints: Path, fingerprint: str) -> None:
    """Throw away checkpoints of another run."""
    note = checkpoints / _FINGERPRINT
    if checkpoints.exists() and not note.exists() and any(checkpoints.iterdir()):
        raise ConfigError(f"{checkpoints} holds other files; name another folder with --out")
    if note.exists() and note.read_text(encoding="utf-8") != fingerprint:
        shutil.rmtree(checkpoints)
    checkpoints.mkdir(parents=True, exist_ok=True)
    note.write_text(fingerprint, encoding="utf-8")


class _Report(TrainerCallback):
    """Tells how training goes."""

    def __init__(self, progress: Progress, epochs: int) -> None:
        self._progress, self._epochs, self._loss = progress, epochs, float("nan")

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Remember the training loss."""
        self._loss = kwargs["logs"].get("loss", self._loss)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """One line an epoch."""
        metrics = kwargs["metrics"]
        self._progress(
            f"epoch {state.epoch:.0f} of {self._epochs}: loss {self._loss:.4f}, "
            f"validation loss {metrics['eval_loss']:.4f}, tau-b {metrics['eval_tau_b']:.3f}"
        )


class _Freeze(TrainerCallback):
    """After some epochs leaves the encoder as it is, and trains the head with another learning rate."""

    def __init__(self, after: int, learning_rate: float) -> None:
        self._after, self._learning_rate = after, learning_rate

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Also the first epoch after a resumption comes by here."""
        if round(state.epoch or 0) < self._after:
            return
        kwargs["model"].encoder.requires_grad_(requires_grad=False)
        scheduler = kwargs["lr_scheduler"]
        scheduler.base_lrs = [self._learning_rate] * len(scheduler.base_lrs)
        # what the linear decay makes of these holds from the next step on; for this one it is worked out here
        for group, decay in zip(kwargs["optimizer"].param_groups, scheduler.lr_lambdas, strict=True):
            group["lr"] = self._learning_rate * decay(scheduler.last_epoch)


def _fingerprint(samples: Sequence[Sample], settings: Settings, seed: int) -> str:
    """The same for the same run only."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(json.dumps([sample.prompt, sample.num_output_tokens, sample.model]).encode())
    return json.dumps({"data": digest.hexdigest(), "seed": seed, **dataclasses.asdict(settings)})
