"""Shapes of the music models that are released, what they hear, and which of transformers' networks they are."""

from pathlib import Path
from typing import Any

from transformers import (
    Data2VecAudioConfig,
    Data2VecAudioModel,
    HubertConfig,
    HubertModel,
    PretrainedConfig,
    Wav2Vec2FeatureExtractor,
)

from codecdiff.huggingface import not_found

Shape = HubertConfig | Data2VecAudioConfig
Network = HubertModel | Data2VecAudioModel

NETWORKS: dict[str, tuple[type[Any], type[Any]]] = {
    "mert_model": (HubertConfig, HubertModel),
    "hubert": (HubertConfig, HubertModel),
    "data2vec-audio": (Data2VecAudioConfig, Data2VecAudioModel),
}
FOREIGN = ("feature_extractor_cqt", "deepnorm")  # of MERT, which HuBERT lacks; no released model uses them

_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "do_stable_layer_norm": True,
}
RELEASED: dict[str, tuple[dict[str, Any], int]] = {
    "m-a-p/MERT-v1-95M": ({"model_type": "mert_model"}, 24_000),
    "m-a-p/MERT-v1-330M": ({"model_type": "mert_model", **_LARGE}, 24_000),
}  # shape, and sample rate in Hz; the rest as transformers' defaults


def shape_of(model: str, revision: str | None, *, online: bool = False) -> Shape:
    """Give the shape of a model: of a local folder, a released one, one fetched before, or one of the hub if `online`.

    Raises LookupError if it is none of these, and ValueError if it is no network that can be read.
    """
    if not online and model in RELEASED and not Path(model).is_dir():
        return _shape(model, RELEASED[model][0])
    try:
        return _shape(
            model,
            PretrainedConfig.get_config_dict(model, revision=revision or "main", local_files_only=not online)[0],
        )
    except OSError as error:
        raise _unknown(model, revision, error) from error


def _shape(model: str, told: dict[str, Any]) -> Shape:
    kind = told.get("model_type", "")
    if kind not in NETWORKS:
        raise ValueError(
            f"{model!r} is a {kind or 'model of no known kind'}. Kinds that are read: {', '.join(NETWORKS)}."
        )
    if foreign := [name for name in FOREIGN if told.get(name)]:
        raise ValueError(
            f"{model!r} uses {foreign[0]}, which needs the code it brings, and that is not run. "
            "Take m-a-p/MERT-v1-95M or m-a-p/MERT-v1-330M."
        )
    unused = {"model_type", "auto_map", "architectures", *FOREIGN}
    return NETWORKS[kind][0](**{name: value for name, value in told.items() if name not in unused})


def network_of(shape: Shape) -> type[Any]:
    """Give the class of the network of this shape."""
    return HubertModel if isinstance(shape, HubertConfig) else Data2VecAudioModel


def features_of(model: str, revision: str | None, *, online: bool = False) -> Wav2Vec2FeatureExtractor:
    """Give what prepares audio for a model, as `shape_of` finds it."""
    if not online and model in RELEASED and not Path(model).is_dir():
        return Wav2Vec2FeatureExtractor(sampling_rate=RELEASED[model][1])
    try:
        return Wav2Vec2FeatureExtractor.from_pretrained(model, revision=revision or "main", local_files_only=not online)
    except OSError as error:
        raise _unknown(model, revision, error) from error


def _unknown(model: str, revision: str | None, error: Exception) -> LookupError:
    return not_found("music model", model, revision, "config.json, preprocessor_config.json and weights", error)
