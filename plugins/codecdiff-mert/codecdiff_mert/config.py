"""Configurations of music models, and which of transformers' networks they are."""

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

from codecdiff.errors import InvalidValue
from codecdiff.huggingface import PretrainedModels, from_hub, is_building_skeleton, not_found

Config = HubertConfig | Data2VecAudioConfig
Network = HubertModel | Data2VecAudioModel


class MERTConfig(HubertConfig):
    """MERT's configuration: HuBERT's under the name that its files have."""

    model_type = "mert_model"


CONFIGS: dict[str, type[Config]] = {
    "mert_model": MERTConfig,
    "hubert": HubertConfig,
    "data2vec-audio": Data2VecAudioConfig,
}
FILES = "config.json, preprocessor_config.json and model.safetensors or pytorch_model.bin"
UNSUPPORTED = ("feature_extractor_cqt", "deepnorm")  # of MERT, which HuBERT lacks; no released model uses them

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
}  # configuration, and sample rate in Hz; everything else as transformers' defaults

TINY: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8, 8],
    "conv_kernel": [10, 8],
    "conv_stride": [5, 4],
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "num_feat_extract_layers": 2,
}


def load_music_config(model: str, revision: str | None) -> Config:
    """Load the configuration of a model; for a skeleton without a network connection.

    Raises LookupError if the model does not exist, and ValueError if its network cannot be read.
    """
    if is_building_skeleton() and model in RELEASED and not Path(model).is_dir():
        return parse_config(model, RELEASED[model][0])
    try:
        options = {"revision": revision or "main", "local_files_only": is_building_skeleton()}
        return parse_config(model, PretrainedConfig.get_config_dict(model, **options)[0])
    except OSError as error:
        raise not_found("music model", model, revision, FILES, error) from error


def parse_config(model: str, fields: dict[str, Any]) -> Config:
    """Return the configuration with the fields of a `config.json`. Raises ValueError for one that cannot be read."""
    kind = fields.get("model_type", "")
    if kind not in CONFIGS:
        raise InvalidValue(
            f"{model!r} is a {kind or 'model of an unknown kind'}. Kinds that are read: {', '.join(CONFIGS)}."
        )
    if unsupported := [name for name in UNSUPPORTED if fields.get(name)]:
        raise InvalidValue(
            f"{model!r} uses {unsupported[0]}, which needs the code it brings, and that is not run. "
            "Take m-a-p/MERT-v1-95M or m-a-p/MERT-v1-330M."
        )
    unused = {"model_type", "auto_map", "architectures", *UNSUPPORTED}
    return CONFIGS[kind](**{name: value for name, value in fields.items() if name not in unused})


def network_class(config: Config) -> type[Any]:
    """Return the class of the network with this configuration."""
    return HubertModel if isinstance(config, HubertConfig) else Data2VecAudioModel


def load_network(model: str, revision: str | None) -> Network:
    """Load the network as the kind that its configuration names."""
    config = load_music_config(model, revision)
    in_training_alone = frozenset(["masked_spec_embed"])
    models = PretrainedModels("music", network_class(config), {}, FILES, optional=in_training_alone, options={})
    return models.load(model, revision, config=config)


def load_music_extractor(model: str, revision: str | None) -> Wav2Vec2FeatureExtractor:
    """Load what prepares audio for a model; for a skeleton without a network connection. Raises LookupError."""
    if is_building_skeleton() and model in RELEASED and not Path(model).is_dir():
        return Wav2Vec2FeatureExtractor(sampling_rate=RELEASED[model][1])
    options = {"local_files_only": is_building_skeleton()}
    return from_hub(Wav2Vec2FeatureExtractor, "music", model, revision, FILES, **options)


def tiny(size: str = "tiny", *, kind: str = "mert_model", **changes: Any) -> dict[str, Any]:
    """Describe a music model of random weights at 4 kHz, of a kind in `CONFIGS`: `tiny` is the only size."""
    if size != "tiny":
        raise InvalidValue(f"Invalid size {size!r}: expected tiny.")
    config = CONFIGS[kind](**{**TINY, **changes})
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=4000)
    return {"network": network_class(config)(config), "processors": [extractor]}
