"""Latents of fewer dimensions than the codebook vectors have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from codecdiff.codecs.residual import nearest_vectors
from codecdiff.codecs.wrapper import CodecWrapper, codebook_vectors, find_duplicate_codes
from codecdiff.errors import InvalidValue
from codecdiff.fingerprint import device_of
from codecdiff.interfaces.codec import Codec
from codecdiff.precision import exactly


class PCACodec(CodecWrapper):
    """A codec whose latents are the first principal components of its codebook vectors, `dims` for each codebook.

    For codecs with wide vectors, such as EnCodec's of 128 dimensions, which need wide denoisers. The components follow
    from the codebooks alone: no music is measured. Codes and audio stay those of the wrapped codec. A latent is looked
    up by distance among the reduced vectors. Lifting it back into all dimensions would not do: a vector far off the
    components can be nearer to a neighbor's place than to its own, and `quantize(embed(codes)) == codes` would not
    hold. What is lost is how vectors differ off the components (`explained_variance`): the fewer dimensions, the closer
    the vectors lie, and the more often a slightly wrong prediction is taken for another vector.

    The components are saved with a model as fitted state, because another machine's linear algebra may round
    differently.

    Args:
        codec: The wrapped codec.
        dims: Dimensions of the latents.

    Raises:
        ValueError: `dims` is not positive, or more than the wrapped codec has.

    """

    keeps_codes = True
    state_names = ("mean", "basis")
    mean: Tensor  # (k, 1, d) of the codebook vectors
    basis: Tensor  # (k, d, dims), orthonormal columns
    table: Tensor  # (k, codebook_size, dims), the reduced vectors
    explained_variance: Tensor  # (k,), fraction of the vectors' variance that lies in the components

    def __init__(self, codec: Codec, dims: int):
        super().__init__(codec)
        if not 1 <= dims <= codec.codebook_dim:
            raise InvalidValue(
                f"dims={dims}: the codebook vectors of {type(codec).__name__} have {codec.codebook_dim} dimensions. "
                f"Choose 1 to {codec.codebook_dim}."
            )
        self.codebook_dim = dims
        if dims < codec.codebook_dim and type(codec).encode_continuous is not Codec.encode_continuous:
            reason = "reduced, a latent before quantization may be nearer to another vector than to that of its code"
            self.expected_failures = {**codec.expected_failures, "continuous": reason}
        k, d, device = codec.num_codebooks, codec.codebook_dim, device_of(codec)
        shapes = {"mean": (k, 1, d), "basis": (k, d, dims), "table": (k, codec.codebook_size, dims)}
        for name, shape in {**shapes, "explained_variance": (k,)}.items():
            # not part of the state: they follow from the codebooks, which are in the wrapped codec's state
            self.register_buffer(name, torch.zeros(shape, device=device), persistent=False)
        if codec.is_fitted:
            self._set_components(*principal_components(codebook_vectors(codec).mT, dims))

    # a property, as in CodecWrapper: a codec that is fitted later has others
    @property
    def duplicate_codes(self) -> frozenset[tuple[int, int]]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """(codebook, code) whose reduced vectors equal another's, and quantize to that one's code."""
        return find_duplicate_codes(self)

    def embed(self, codes: Tensor) -> Tensor:
        """Look up codes (b, k, l): reduced vectors (b, k, dims, l)."""
        rows = zip(self.table, codes.long().unbind(1), strict=True)
        return torch.stack([table[row].mT for table, row in rows], dim=1)

    def quantize(self, latents: Tensor) -> Tensor:
        """Return the codes (b, k, l) of the reduced vectors nearest to latents (b, k, dims, l)."""
        rows = zip(self.table, latents.to(self.table.dtype).unbind(1), strict=True)
        return torch.stack([nearest_vectors(row.mT, table) for table, row in rows], dim=1)

    def fit(self, clips: Iterable[Tensor], *, seed: int = 0) -> None:
        """Fit the wrapped codec to clips of audio (ch, t), and reduce its new codebook vectors."""
        super().fit(clips, seed=seed)
        self._set_components(*principal_components(codebook_vectors(self.codec).mT, self.codebook_dim))

    def load_fitted_state(self, state: Mapping[str, Tensor]) -> None:
        """Load the tensors of `fitted_state`, and reduce the codebook vectors with the components."""
        super().load_fitted_state(state)
        self._set_components(self.mean, self.basis)

    def _set_components(self, mean: Tensor, basis: Tensor) -> None:
        """Set the components, and reduce the codebook vectors with them."""
        centered = codebook_vectors(self.codec).mT - mean
        self.mean, self.basis, self.table = mean, basis, centered @ basis
        self.explained_variance = self.table.var(1).sum(-1) / centered.var(1).sum(-1)

    def normalize(self, latents: Tensor) -> Tensor:
        """(b, k, d, l) latents of the wrapped codec -> (b, k, dims, l)."""
        with exactly(latents.device):
            return ((latents.mT - self.mean) @ self.basis).mT


@torch.no_grad()
def principal_components(vectors: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the mean (k, 1, d) and the first principal components (k, d, count) of vectors (k, n, d).

    Computed in float64, each component's largest part positive, so that they are the same everywhere except for
    rounding.
    """
    exact = vectors.double()
    mean = exact.mean(1, keepdim=True)
    _, eigenvectors = torch.linalg.eigh((exact - mean).mT @ (exact - mean))  # ascending
    basis = eigenvectors[..., -count:].flip(-1)
    largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
    return mean.to(vectors.dtype), (basis * largest.sign()).to(vectors.dtype)
