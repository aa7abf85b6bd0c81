"""Runs the authors' own graph, which is in the wheel of musicnn 0.1.0, on spectrograms: where authors_graph.safetensors
comes from.

In an environment of its own, for TensorFlow is no dependency of this project:

    pip install tensorflow-cpu==2.21.0 safetensors
    pip download --no-deps musicnn==0.1.0 && python -m zipfile -e musicnn-0.1.0-py3-none-any.whl musicnn-wheel
    python authors_graph.py musicnn-wheel authors_graph.safetensors

The file that is named last is read for its spectrograms and written again with what the graph computes of them. They
are those of `example_audio` in test_musicnn.py, by librosa 0.11 and numpy's arithmetic in half precision.
"""

import os
import sys
from pathlib import Path

os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"  # its sums differ by 2e-5

import numpy as np
from safetensors.numpy import load_file, save_file
from tensorflow.compat import v1 as tf  # pyright: ignore[reportMissingImports]


def run(folder: Path, spectrograms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the embeddings and the probabilities of tags that a checkpoint computes of (n, 187, 96) spectrograms."""
    meta = tf.MetaGraphDef.FromString((folder / ".meta").read_bytes())
    outputs = ["model/batch_normalization_10/batchnorm/add_1", "model/Sigmoid"]
    graph = tf.graph_util.extract_sub_graph(meta.graph_def, outputs)  # without training and its gradients
    for node in graph.node:
        node.attr.pop("_output_shapes", None)
        node.attr.pop("_class", None)
    checkpoint = tf.train.NewCheckpointReader(f"{folder}/")
    variables = [node.name for node in graph.node if node.op == "VariableV2"]
    inputs = {f"{name}/read:0": checkpoint.get_tensor(name) for name in variables}
    inputs |= {"model/Placeholder:0": spectrograms, "model/Placeholder_2:0": False}  # the latter: whether it trains
    with tf.Graph().as_default(), tf.Session() as session:
        tf.import_graph_def(graph, name="")
        return tuple(session.run([f"{name}:0" for name in outputs], inputs))


def main() -> None:
    """Read the command line, run both checkpoints and write the file."""
    wheel, file = Path(sys.argv[1]), Path(sys.argv[2])
    tensors = {"spectrograms": load_file(file)["spectrograms"]}
    for name, folder in {"msd": "MSD_musicnn", "mtt": "MTT_musicnn"}.items():
        embedding, tags = run(wheel / "musicnn" / folder, tensors["spectrograms"].astype(np.float32))
        tensors |= {f"{name}.embedding": embedding, f"{name}.tags": tags}
    save_file(tensors, file)


if __name__ == "__main__":
    tf.disable_eager_execution()
    main()
