"""Write the ONNX graph of the bundled model, with which `hf-spam classify` answers without importing torch.

    python scripts/bundled_graph.py

The graph holds no weights: it names their places in model.safetensors, next to it.
"""

import json
import tempfile
from pathlib import Path

import onnx
from onnx import TensorProto, helper, numpy_helper

from hf_spam.conversion.loading import BUNDLED, load_classifier
from hf_spam.conversion.onnx import GRAPHS, write_onnx
from hf_spam.inference.quick import BUNDLED_GRAPH

WEIGHTS = "model.safetensors"
SMALL = 512  # bytes; smaller constants stay in the graph


def write_graph(folder: Path = BUNDLED) -> None:
    """Write the graph of the model in a folder, in fp32, next to its weights."""
    with tempfile.TemporaryDirectory() as exported:
        write_onnx(load_classifier(folder).eval(), Path(exported))
        model = onnx.load(Path(exported, GRAPHS["fp32"]))
    places, turned = weight_places(folder / WEIGHTS), []
    for tensor in model.graph.initializer:
        weights = numpy_helper.to_array(tensor)
        if weights.nbytes < SMALL:
            continue
        if weights.tobytes() not in places:  # the exporter transposes the weights of products
            turned.append(helper.make_node("Transpose", [f"{tensor.name}_stored"], [tensor.name], perm=[1, 0]))
            tensor.name, weights = f"{tensor.name}_stored", weights.T
        place = {"location": WEIGHTS, "offset": places[weights.tobytes()], "length": weights.nbytes}
        tensor.ClearField("raw_data")
        tensor.dims[:] = weights.shape
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
    nodes = [*turned, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    (folder / BUNDLED_GRAPH).write_bytes(model.SerializeToString(deterministic=True))


def weight_places(path: Path) -> dict[bytes, int]:
    """Return the offset in a safetensors file of each tensor, by its bytes."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    tensors = json.loads(content[8:start])
    tensors.pop("__metadata__", None)
    ranges = (tensor["data_offsets"] for tensor in tensors.values())
    return {content[start + first : start + last]: start + first for first, last in ranges}


if __name__ == "__main__":
    write_graph()
