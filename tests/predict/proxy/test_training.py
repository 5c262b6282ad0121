"""From samples to a folder that serves without torch, on an encoder made here."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau
from sklearn.metrics import accuracy_score, f1_score

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("onnxscript")
safetensors = pytest.importorskip("safetensors.torch")

from tokenizers import Tokenizer  # noqa: E402

from ssjf.cli.prediction.train import train as train_command  # noqa: E402
from ssjf.errors import ConfigError, DataError  # noqa: E402
from ssjf.predict.artefact import load_predictor, read_card, save_predictor  # noqa: E402
from ssjf.predict.proxy.formulations import EMBEDDING, FORMULATIONS, PRESETS, SCRATCH, Settings  # noqa: E402
from ssjf.predict.proxy.network import network_from, new_encoder  # noqa: E402
from ssjf.predict.proxy.predictor import INT8, SINGLE, TOKENIZER, TORCH, EmbeddingPredictor, ProxyPredictor, Runner  # noqa: E402
from ssjf.predict.proxy.text import side_features  # noqa: E402
from ssjf.predict.proxy.training import class_quality, fit, fitter  # noqa: E402
from ssjf.predict.training import Sample, measure, train  # noqa: E402
from tests.predict.made_up import ask, make_samples  # noqa: E402

# two target models, the second's answers three times as long
SAMPLES = [*make_samples(120, model="terse"), *make_samples(120, seed=1, model="wordy", factor=3)]
TEST = [*make_samples(60, seed=2, model="terse"), *make_samples(60, seed=3, model="wordy", factor=3)]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers saves it: one layer, random weights, a vocabulary of the samples."""
    folder = tmp_path_factory.mktemp("encoder")
    prompts = [sample.prompt for sample in SAMPLES]
    network, tokenizer = new_encoder(prompts, vocab_size=300, hidden_size=32, num_layers=1)
    network.save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=64, pad_token="[PAD]"
    ).save_pretrained(folder)
    return folder


def quick(encoder: Path, **changes: object) -> Settings:
    """Steps that are large and few."""
    base = Settings(encoder=str(encoder), epochs=5, patience=9, learning_rate=5e-3, batch_size=16, validation=0.2)
    return dataclasses.replace(base, **changes)


def losses(messages: list[str]) -> list[float]:
    """Training losses of the epochs."""
    return [float(m.partition("loss ")[2].partition(",")[0]) for m in messages if m.startswith("epoch")]


@pytest.fixture(scope="module", params=FORMULATIONS)
def trained(request: pytest.FixtureRequest, encoder: Path, tmp_path_factory: pytest.TempPathFactory):
    """Each formulation: its name, the predictor, what the card tells, and what was said while training."""
    messages: list[str] = []
    checkpoints = tmp_path_factory.mktemp("run") / "checkpoints"
    settings = quick(encoder, formulation=request.param)
    predictor, about = fit(SAMPLES, settings=settings, checkpoints=checkpoints, progress=messages.append)
    assert not checkpoints.exists()
    return request.param, predictor, about, messages


def test_every_formulation_learns_saves_loads_and_predicts_tokens(trained, tmp_path: Path) -> None:
    name, predictor, about, messages = trained
    assert about["formulation"] == name
    best = max(float(m.rpartition("tau-b ")[2]) for m in messages if m.startswith("epoch"))
    assert about["validation_tau_b"]["float32"] == pytest.approx(best, abs=0.02)
    its_losses = losses(messages)
    assert its_losses[-1] < 0.9 * its_losses[0]
    assert (measure(predictor, TEST)["tau_b"] or 0) > 0.5
    save_predictor(predictor, tmp_path / "saved", {"settings": about})
    requests = [ask(sample.prompt, model=sample.model) for sample in TEST[:20]]
    assert load_predictor(str(tmp_path / "saved")).predict(requests) == predictor.predict(requests)
    assert json.loads((tmp_path / "saved" / "card.json").read_text())["settings"]["encoder"]


def test_class_heads_are_measured_as_classifiers(trained) -> None:
    name, _, about, _ = trained
    if FORMULATIONS[name].decoder != "class":
        assert "validation_accuracy" not in about
        return
    assert about["validation_accuracy"] > 0.5
    truth, predicted = np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 2, 0])
    assert class_quality(truth, predicted) == {
        "validation_accuracy": pytest.approx(accuracy_score(truth, predicted)),
        "validation_macro_f1": pytest.approx(f1_score(truth, predicted, average="macro")),
    }


def outputs_of(predictor: ProxyPredictor, graph: str) -> np.ndarray:
    arrays, state = predictor.state()
    frame = {key: state[key] for key in ("target_models", "max_length", "truncation")}
    runner = Runner(arrays[graph].tobytes(), arrays[TOKENIZER].tobytes(), **frame)
    return runner.outputs([ask(sample.prompt, model=sample.model) for sample in TEST])


def torch_outputs_of(predictor: ProxyPredictor) -> np.ndarray:
    arrays, state = predictor.state()
    network = network_from(state, safetensors.load(arrays[TORCH].tobytes()))
    tokenizer = Tokenizer.from_buffer(arrays[TOKENIZER].tobytes())
    rows = []
    with torch.inference_mode():
        for sample in TEST:
            side = side_features(sample.prompt, sample.model, state["target_models"])
            ids = torch.tensor([tokenizer.encode(sample.prompt).ids])
            rows.append(network(torch.from_numpy(side)[None], input_ids=ids)["outputs"][0].numpy())
    return np.array(rows)


def test_onnx_is_pytorch_and_eight_bits_keep_the_ranking(trained) -> None:
    _, predictor, _, _ = trained
    single, int8 = (outputs_of(predictor, graph) for graph in (SINGLE, INT8))
    assert single == pytest.approx(torch_outputs_of(predictor), abs=1e-4)
    assert not np.array_equal(single, int8)
    for column in range(single.shape[1]):
        assert kendalltau(single[:, column], int8[:, column])[0] > 0.9


@pytest.mark.parametrize("kind", ["saved", "scratch"])
def test_the_same_seed_gives_the_same_predictor(encoder: Path, tmp_path: Path, kind: str) -> None:
    def run(seed: int) -> dict[str, np.ndarray]:
        settings = quick(encoder if kind == "saved" else Path(SCRATCH), epochs=1)
        return fit(SAMPLES, settings=settings, checkpoints=tmp_path / "run", seed=seed)[0].state()[0]

    first, again, other = run(0), run(0), run(1)
    for name in (TOKENIZER, TORCH, SINGLE, INT8):
        assert np.array_equal(first[name], again[name]), name
    assert not np.array_equal(first[TORCH], other[TORCH])


def test_target_models_are_told_apart_and_an_unknown_one_lies_between(encoder: Path, tmp_path: Path) -> None:
    predictor, _ = fit(SAMPLES, settings=quick(encoder, epochs=8), checkpoints=tmp_path / "run")
    prompts = [sample.prompt for sample in TEST]
    medians = {
        model: np.median([p.num_output_tokens for p in predictor.predict([ask(text, model=model) for text in prompts])])
        for model in ("terse", "wordy", "never heard of")
    }
    assert 1.5 * medians["terse"] < medians["wordy"]
    assert medians["terse"] < medians["never heard of"] < medians["wordy"]


class _Interrupted(Exception):
    pass


def test_an_interrupted_run_goes_on_and_ends_as_if_it_had_not_been(encoder: Path, tmp_path: Path) -> None:
    settings = quick(encoder, epochs=4, freeze_after=2, frozen_learning_rate=1e-3)

    def interrupt(message: str) -> None:
        # the checkpoint of an epoch is written after its evaluation is reported
        if message.startswith("epoch 4"):
            raise _Interrupted

    messages: list[str] = []
    straight, _ = fit(SAMPLES, settings=settings, checkpoints=tmp_path / "straight")
    with pytest.raises(_Interrupted):
        fit(SAMPLES, settings=settings, checkpoints=tmp_path / "run", progress=interrupt)
    resumed, _ = fit(SAMPLES, settings=settings, checkpoints=tmp_path / "run", progress=messages.append)
    assert any(message.startswith("resuming") for message in messages)
    assert len(losses(messages)) == 1
    assert np.array_equal(straight.state()[0][TORCH], resumed.state()[0][TORCH])


def test_checkpoints_of_another_run_are_not_resumed(encoder: Path, tmp_path: Path) -> None:
    def interrupt(message: str) -> None:
        if message.startswith("epoch 2"):
            raise _Interrupted

    messages: list[str] = []
    with pytest.raises(_Interrupted):
        fit(SAMPLES, settings=quick(encoder, epochs=2), checkpoints=tmp_path / "run", progress=interrupt)
    fit(SAMPLES[1:], settings=quick(encoder, epochs=2), checkpoints=tmp_path / "run", progress=messages.append)
    assert not any(message.startswith("resuming") for message in messages)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(ConfigError, match="holds other files"):
        fit(SAMPLES, settings=quick(encoder), checkpoints=tmp_path / "mine")


def weights(predictor: ProxyPredictor, part: str) -> dict[str, np.ndarray]:
    tensors = safetensors.load(predictor.state()[0][TORCH].tobytes())
    return {name: tensor.numpy() for name, tensor in tensors.items() if name.startswith(part)}


def test_the_recipe_of_the_paper_freezes_the_encoder_and_trains_the_head_on(encoder: Path, tmp_path: Path) -> None:
    def run(rate: float) -> tuple[list[str], dict[str, np.ndarray]]:
        """What is said of two epochs, the second of them frozen, and the weights after it."""
        messages: list[str] = []

        def interrupt(message: str) -> None:
            messages.append(message.partition("validation")[2])
            if message.startswith("epoch 3"):
                raise _Interrupted

        settings = dataclasses.replace(
            PRESETS["paper"],
            encoder=str(encoder),
            learning_rate=1e-3,
            epochs=3,
            freeze_after=1,
            frozen_learning_rate=rate,
        )
        folder = tmp_path / str(rate)
        with pytest.raises(_Interrupted):
            fit(SAMPLES, settings=settings, checkpoints=folder, progress=interrupt)
        last = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
        tensors = safetensors.load((last / "model.safetensors").read_bytes())
        return messages[-3:], {name: tensor.numpy() for name, tensor in tensors.items()}

    (said_still, still), (said_moved, moved) = run(0.0), run(1e-2)
    assert said_still[0] == said_still[1] == said_moved[0] != said_moved[1]
    for name, value in still.items():
        assert np.array_equal(value, moved[name]) == (not name.startswith("head.")), name


def test_the_paper_s_classes_and_head(encoder: Path, tmp_path: Path) -> None:
    paper = dataclasses.replace(PRESETS["paper"], encoder=str(encoder), formulation="binary", epochs=1)
    predictor, about = fit(SAMPLES, settings=paper, checkpoints=tmp_path / "run")
    assert len(about["thresholds"]) == 2  # the paper's "binary" sets the longest hundredth apart
    shapes = {name: value.shape for name, value in weights(predictor, "head.").items()}
    # [CLS] of 32 numbers, two models, three numbers about the conversation -> 128 -> 128 -> classes
    assert [shapes[f"head.{layer}.weight"] for layer in (0, 2, 4)] == [(128, 32 + 2 + 3), (128, 128), (3, 128)]
    paper = PRESETS["paper"]
    assert (paper.learning_rate, paper.epochs, paper.batch_size, paper.freeze_after) == (1e-5, 6, 16, 3)


def test_an_embedding_leaves_the_encoder_alone_and_learns_a_linear_head(encoder: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(EMBEDDING, encoder=str(encoder), epochs=15)
    predictor, about = fit(SAMPLES, settings=settings, checkpoints=tmp_path / "run")
    assert isinstance(predictor, EmbeddingPredictor)
    assert about["family"] == "embedding"
    before = transformers.AutoModel.from_pretrained(encoder).state_dict()
    for name, value in weights(predictor, "encoder.").items():
        assert np.array_equal(value, before[name.removeprefix("encoder.")].numpy())
    assert weights(predictor, "head.").keys() == {"head.0.weight", "head.0.bias"}
    assert (measure(predictor, TEST)["tau_b"] or 0) > 0.5
    assert outputs_of(predictor, SINGLE) == pytest.approx(torch_outputs_of(predictor), abs=1e-4)


def test_training_ends_early_when_validation_gets_no_better(encoder: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(1, 500, len(SAMPLES)).tolist()
    samples = [Sample(sample.prompt, tokens) for sample, tokens in zip(SAMPLES, noise, strict=True)]
    _, about = fit(samples, settings=quick(encoder, epochs=12, patience=1), checkpoints=tmp_path / "run")
    assert about["epochs_run"] < 12


def test_strange_prompts_are_learned_from_and_divergence_is_said(encoder: Path, tmp_path: Path) -> None:
    strange = [Sample(text, 0) for text in ("", "\udc80 lone", "\x00" * 9, "x " * 200_000, "日本語で答えて")]
    trained = train(
        [*strange, *SAMPLES],
        fitter("proxy", None, {"encoder": str(encoder), "epochs": 1}, checkpoints=tmp_path / "run"),
    )
    assert trained.metrics["n"] == 49
    settings = quick(encoder, learning_rate=1e30)
    with pytest.raises(DataError, match="learning-rate"):
        fit(SAMPLES, settings=settings, checkpoints=tmp_path / "run")


@pytest.mark.parametrize(
    ("family", "preset", "given", "complaint"),
    [
        ("proxy", "papers", {}, "did you mean 'paper'"),
        ("embedding", "paper", {}, "no preset 'paper'"),
        ("proxy", None, {"formulation": "multi-class"}, "did you mean 'multiclass'"),
        ("proxy", None, {"truncation": "middle"}, "head-tail"),
    ],
)
def test_a_wrong_setting_is_refused_before_training(tmp_path: Path, family, preset, given, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        fitter(family, preset, given, checkpoints=tmp_path)


def test_a_folder_that_is_no_encoder_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="no encoder") as caught:
        fit(SAMPLES, settings=quick(tmp_path), checkpoints=tmp_path / "run")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["weights", "tokenizer", "no tokenizer"])
def test_an_encoder_with_damaged_files_is_one_clear_line(encoder: Path, tmp_path: Path, damage: str) -> None:
    damaged = tmp_path / "encoder"
    shutil.copytree(encoder, damaged)
    if damage == "weights":
        (damaged / "model.safetensors").write_bytes(b"short")
    elif damage == "tokenizer":
        (damaged / "tokenizer.json").write_text("{}")
    else:
        for file in damaged.glob("tokenizer*"):
            file.unlink()
    with pytest.raises(ConfigError, match="no encoder") as caught:
        fit(SAMPLES, settings=quick(damaged), checkpoints=tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_the_command_trains_an_encoder_and_writes_a_card(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "prompts.jsonl"
    rows = [{"prompt": s.prompt, "model": s.model, "output_tokens": s.num_output_tokens} for s in SAMPLES]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    train_command(
        data,
        out,
        family="proxy",
        formulation="listwise",
        encoder=str(encoder),
        epochs=3,
        learning_rate=5e-3,
        batch_size=16,
    )
    card = read_card(out)
    assert card["family"] == "proxy"
    assert card["state"]["target_models"] == ["terse", "wordy"]
    assert card["settings"]["formulation"] == "listwise"
    assert len(card["data"]["sha256"]) == 64
    assert set(card["metrics_by_model"]) == {"terse", "wordy"}
    assert isinstance(load_predictor(str(out)), ProxyPredictor)
    assert not (tmp_path / "out.checkpoints").exists()
    assert "tau-b" in capsys.readouterr().out


def test_the_command_refuses_what_does_not_belong_to_a_family(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--formulation is for the families proxy and embedding, not ngram"):
        train_command(tmp_path / "data.jsonl", tmp_path / "out", formulation="listwise")
    with pytest.raises(ConfigError, match="--preset"):
        train_command(tmp_path / "data.jsonl", tmp_path / "out", preset="paper")
