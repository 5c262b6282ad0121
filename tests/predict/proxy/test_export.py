import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

from ssjf.predict.proxy.export import to_onnx  # noqa: E402
from ssjf.predict.proxy.network import ProxyNetwork  # noqa: E402

SMALL = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 70,
}


@pytest.mark.parametrize("architecture", ["RobertaConfig", "DistilBertConfig", "ModernBertConfig"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_other_architectures_are_exported_for_any_length(architecture: str, pooling: str) -> None:
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    torch.manual_seed(0)
    encoder = transformers.AutoModel.from_config(getattr(transformers, architecture)(**SMALL, **ids))
    network = ProxyNetwork(encoder, num_side_features=3, num_outputs=2, hidden=(8,), pooling=pooling).eval()
    # as training does it: several texts in a batch, the shorter ones padded
    lengths = (64, 17, 2)
    rows = torch.randint(3, 100, (3, 64))
    mask = torch.stack([(torch.arange(64) < length).long() for length in lengths])
    side = torch.randn(3, 3)
    with torch.inference_mode():
        expected = network(side, input_ids=rows * mask, attention_mask=mask)["outputs"]
    session = onnxruntime.InferenceSession(to_onnx(network, 64))
    for row, length in enumerate(lengths):
        inputs = {"input_ids": rows[row : row + 1, :length].numpy(), "side": side[row : row + 1].numpy()}
        assert session.run(None, inputs)[0][0] == pytest.approx(expected[row].numpy(), abs=1e-5)
