"""A trained network as files: safetensors, and ONNX in single precision and in eight bits.

The ONNX graph takes one request at a time, without padding or mask: on a CPU batches gain nothing, and with dynamic
quantization, whose scales come from the whole batch, a prediction would depend on the neighbours.
"""

import copy
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from safetensors.torch import save
from torch import Tensor, nn

from ssjf.predict.proxy.network import ProxyNetwork

_EXAMPLE_LENGTH = 16


def to_safetensors(network: ProxyNetwork) -> bytes:
    """All weights, by name."""
    content: bytes = save({name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items()})
    return content


def to_onnx(network: ProxyNetwork, max_length: int) -> bytes:
    """The graph from ``input_ids`` (1, length) and ``side`` (1, features) to ``outputs`` (1, num_outputs)."""
    # without the guards of fused attention against rows that are masked entirely: an eighth less time
    network = copy.deepcopy(network).cpu().eval()
    network.encoder.set_attn_implementation("eager")
    served = _Served(network)
    ids = torch.zeros((1, _EXAMPLE_LENGTH), dtype=torch.long)
    side = torch.zeros((1, network.head[0].in_features - len(network.centre)))
    buffer = io.BytesIO()
    with _quiet():
        program = torch.onnx.export(
            served,
            (ids, side),
            dynamo=True,
            verbose=False,
            input_names=["input_ids", "side"],
            output_names=["outputs"],
            dynamic_shapes=({1: torch.export.Dim("length", min=2, max=max_length)}, None),
        )
        program.save(buffer)
    return buffer.getvalue()


def to_int8(model: bytes) -> bytes:
    """The same graph with weights in eight bits; activations are quantized as they come."""
    graph = onnx.load_from_string(model)
    del graph.graph.value_info[:]  # shapes of weights that quantization transposes
    buffer = io.BytesIO()
    with _quiet():
        quantize_dynamic(graph, buffer, weight_type=QuantType.QInt8)
    return buffer.getvalue()


class _Served(nn.Module):
    def __init__(self, network: ProxyNetwork) -> None:
        super().__init__()
        self._network = network

    def forward(self, input_ids: Tensor, side: Tensor) -> Tensor:
        return self._network.outputs(self._network.pool(input_ids), side)


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters tell of their own deprecated calls and of optional steps; neither is the user's affair."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
