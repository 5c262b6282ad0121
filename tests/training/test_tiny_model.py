"""The pieces that make the bundled model: packing, a few steps of training, and an export that the engine runs."""

import dataclasses
import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers")
pytest.importorskip("gguf")
openvino_genai = pytest.importorskip("openvino_genai")

from training.export_gguf import export_gguf  # noqa: E402
from training.measure_tiny_model import MeasuredAnswer, summary  # noqa: E402
from training.tiny_llama import LlamaConfig, TinyLlama  # noqa: E402
from training.train_tiny_model import TrainingSettings, Turn, batches, encoded_turns, packed_rows, train  # noqa: E402
from training.vocabulary import END, chat_prompt, train_tokenizer  # noqa: E402

from ssjf.workload.generated.instructions import Instruction, generate  # noqa: E402

SMALL = LlamaConfig(vocab_size=300, hidden_size=64, intermediate_size=96, num_layers=2, num_heads=2)
SETTINGS = TrainingSettings(
    steps=6, short_rows=2, short_length=64, long_rows=1, long_length=256, warmup_steps=2, peak_learning_rate=1e-2
)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer((f"{item.prompt}\n{item.answer}" for item in generate("train", 200, 0)), 500)


@pytest.fixture(scope="module")
def engine_file(tokenizer, tmp_path_factory):
    """A file of random weights, and the model with exactly these weights."""
    torch.manual_seed(0)
    model = TinyLlama(dataclasses.replace(SMALL, vocab_size=tokenizer.get_vocab_size()))
    for parameter in model.parameters():
        # Large, so that what is attended to depends on positions; halved in precision, as the file stores them.
        parameter.data = (parameter.data * 12 if parameter.dim() > 1 else parameter.data).half().float()
    path = tmp_path_factory.mktemp("export") / "random.gguf"
    export_gguf(model, tokenizer, path, name="random")
    return path, model


def engine_pipeline(path):
    scheduling = openvino_genai.SchedulerConfig()
    scheduling.num_kv_blocks = 64
    return openvino_genai.ContinuousBatchingPipeline(
        str(path),
        openvino_genai.Tokenizer(str(path)),
        scheduling,
        "CPU",
        INFERENCE_NUM_THREADS=1,
        INFERENCE_PRECISION_HINT="f32",
    )


def turn(question, answer, *, follows_up=False):
    return Turn(question=[7] * question, answer=[8] * (answer - 1) + [0], follows_up=follows_up)


def test_turns_are_packed_uncut_and_a_row_is_closed_when_the_next_one_does_not_fit():
    (row,) = packed_rows([turn(3, 4), turn(2, 5), turn(3, 5)], 20, end_weight=4.0)
    assert row.tokens == [7, 7, 7, 8, 8, 8, 0, 7, 7, 8, 8, 8, 8, 0] + [0] * 6
    assert row.conversations == [0] * 7 + [1] * 7 + [-1] * 6


def test_only_answers_weigh_short_ones_no_less_than_long_ones_and_ends_the_most():
    (row,) = packed_rows([turn(3, 4), turn(1, 9), turn(9, 9)], 20, end_weight=4.0)
    third = pytest.approx(1 / 3)
    assert row.weights == [0, 0, 0, 0.5, 0.5, 0.5, 2.0, 0, *[third] * 8, pytest.approx(4 / 3), 0, 0, 0]


def test_a_follow_up_belongs_to_the_conversation_before_it_in_the_same_row_only():
    turns = [turn(3, 4), turn(3, 4, follows_up=True), turn(3, 4, follows_up=True), turn(9, 9)]
    rows = list(packed_rows(turns, 14, end_weight=1.0))
    assert [row.conversations for row in rows] == [[0] * 14, [2] * 7 + [-1] * 7]


def test_encoded_turns_read_as_a_conversation(tokenizer):
    instructions = generate("train", 300, 1)
    manners = set()
    for item, encoded in zip(instructions, encoded_turns(instructions, tokenizer, SETTINGS), strict=True):
        asked = tokenizer.decode(encoded.question, skip_special_tokens=False)
        assert item.prompt in asked
        manners.add(asked.replace(item.prompt, "").split("|>")[0])
        assert tokenizer.decode(encoded.answer, skip_special_tokens=False) == item.answer + END
    assert manners == {"<|user", "<|system", "\n"}


def test_a_step_sees_short_and_long_rows_with_targets_one_step_after_the_inputs(tokenizer):
    for parts in batches(tokenizer, SETTINGS):
        assert [tuple(inputs.shape) for inputs, *_ in parts] == [(2, 63), (1, 255)]
        for inputs, targets, weights, conversations in parts:
            assert targets.shape == weights.shape == conversations.shape == inputs.shape
            assert torch.equal(inputs[:, 1:], targets[:, :-1])


def test_every_number_up_to_a_hundred_is_one_token(tokenizer):
    assert all(len(tokenizer.encode(str(number)).ids) == 1 for number in range(101))


def test_a_document_is_computed_as_if_it_were_alone():
    torch.manual_seed(0)
    model = TinyLlama(SMALL)
    first, second = torch.randint(0, 300, (1, 8)), torch.randint(0, 300, (1, 12))
    documents = torch.tensor([[0] * 8 + [1] * 12])
    packed = model(torch.cat((first, second), dim=1), documents)
    torch.testing.assert_close(packed[:, :8], model(first), rtol=1e-4, atol=1e-4)
    # Rotary positions are relative, so it does not matter either that the second one begins at position 8.
    torch.testing.assert_close(packed[:, 8:], model(second), rtol=1e-4, atol=1e-4)


def test_a_position_never_sees_what_comes_after_it():
    torch.manual_seed(0)
    model = TinyLlama(SMALL)
    tokens = torch.randint(0, 300, (1, 20))
    changed = tokens.clone()
    changed[0, 12:] = 5
    torch.testing.assert_close(model(tokens)[:, :12], model(changed)[:, :12])


def test_a_few_steps_lower_the_loss_and_leave_a_file_that_the_engine_answers_from(tmp_path):
    torch.set_num_threads(1)
    _, losses = train(SETTINGS, SMALL, tmp_path)
    assert losses[-1] < losses[0]
    assert json.loads((tmp_path / "settings.json").read_text())["training"]["steps"] == SETTINGS.steps
    generation = openvino_genai.GenerationConfig()
    generation.max_new_tokens = 4
    (result,) = engine_pipeline(tmp_path / "tiny.gguf").generate(["Count to 5."], [generation])
    assert isinstance(result.m_generation_ids[0], str)


def test_the_engine_computes_what_the_model_computes(engine_file):
    path, model = engine_file
    prompt = torch.arange(5, 40)[None]
    generation = openvino_genai.GenerationConfig()
    generation.max_new_tokens = 12
    generation.ignore_eos = True
    import openvino  # noqa: PLC0415 (only where the engine is installed)

    (result,) = engine_pipeline(path).generate([openvino.Tensor(prompt.numpy())], [generation])
    tokens = prompt
    with torch.no_grad():
        for _ in range(generation.max_new_tokens):
            logits = model(tokens)[:, -1] @ model.token_embd.weight.T
            tokens = torch.cat((tokens, logits.argmax(-1, keepdim=True)), dim=1)
    assert list(result.m_generation_ids[0]) == tokens[0, prompt.shape[1] :].tolist()


def test_the_engine_cuts_and_joins_text_as_training_does(engine_file, tokenizer):
    in_engine = openvino_genai.Tokenizer(str(engine_file[0]))
    texts = [chat_prompt(item.prompt) for item in generate("demo", 100, 0)]
    texts += ["  two  spaces\n\nand a line", "it's 12345, naïve — übergroß!? 日本"]
    texts += [chat_prompt("Hi", system="Be kind.")]
    for text in texts:
        token_ids = in_engine.encode(text, add_special_tokens=False).input_ids.data[0].tolist()
        assert token_ids == tokenizer.encode(text).ids
        assert in_engine.decode(token_ids, skip_special_tokens=False) == text


def test_the_engine_renders_a_conversation_as_training_does(engine_file):
    in_engine = openvino_genai.Tokenizer(str(engine_file[0]))
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Count to 5."}]
    rendered = in_engine.apply_chat_template(messages, add_generation_prompt=True)
    assert rendered == chat_prompt("Count to 5.", system="Be kind.")


def test_the_card_tells_ends_and_lengths():
    def measured(text, intended, *, ended=True, kind="sum"):
        instruction = Instruction(kind=kind, prompt="?", answer="a b")
        return MeasuredAnswer(
            instruction=instruction, text=text, num_output_tokens=len(text), intended_tokens=intended, ended=ended
        )

    figures = summary([measured("a b", 3), measured("a", 2), measured("a" * 500, 400, ended=False, kind="song")])
    assert figures["end_of_sequence_rate"] == pytest.approx(2 / 3)
    assert figures["output_tokens"]["max"] == 500
    assert figures["share_exactly_right_by_kind"] == {"song": 0.0, "sum": 0.5}
