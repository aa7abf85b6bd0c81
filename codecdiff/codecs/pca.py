"""Latents of fewer dimensions than the entries of a codebook have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from codecdiff.codecs.wrapper import CodecWrapper, find_duplicate_codes
from codecdiff.fingerprint import device_of
from codecdiff.interfaces import Codec
from codecdiff.precision import exactly


class PCACodec(CodecWrapper):
    """A codec whose latents are the first principal components of its entries, `dims` for each codebook.

    For codecs with wide entries, such as EnCodec's of 128 dimensions, which make wide denoisers. The components follow
    from the codebooks alone: no music is measured. Codes and audio stay those of the wrapped codec. A latent is looked
    up by distance among the reduced entries, and not by lifting it back into all dimensions, where an entry that lies
    far off the components can be nearer to a neighbour's place than to its own: `quantize(embed(codes)) == codes`
    would not hold. What is lost is how entries differ off the components (`explained_variance`): the fewer dimensions,
    the closer they lie, and the more often a prediction that is slightly wrong is taken for another entry.

    The components are kept with a model as fitted state, for another machine's linear algebra may round otherwise.

    Raises:
        ValueError: There are fewer than `dims` dimensions, or `dims` is not positive.

    """

    keeps_codes = True
    mean: Tensor  # (k, 1, d) of the entries
    basis: Tensor  # (k, d, dims), orthonormal columns
    table: Tensor  # (k, entries, dims)
    explained_variance: Tensor  # (k,), share of the entries' variance that lies in the components

    def __init__(self, codec: Codec, dims: int):
        super().__init__(codec)
        if not 1 <= dims <= codec.codebook_dim:
            raise ValueError(
                f"dims={dims}: the entries of {type(codec).__name__} have {codec.codebook_dim} dimensions. Choose 1 to "
                f"{codec.codebook_dim}."
            )
        self.codebook_dim = dims
        if dims < codec.codebook_dim and _projects(codec):
            why = "among fewer dimensions, what is projected may be nearer to another entry than to the one of its code"
            self.expected_failures = {**codec.expected_failures, "continuous": why}
        k, d, device = codec.num_codebooks, codec.codebook_dim, device_of(codec)
        shapes = {"mean": (k, 1, d), "basis": (k, d, dims), "table": (k, codec.codebook_size, dims)}
        for name, shape in {**shapes, "explained_variance": (k,)}.items():
            # they follow from the codebooks, which are in the codec's state: not in this one's
            self.register_buffer(name, torch.zeros(shape, device=device), persistent=False)
        if codec.is_fitted:
            self._take(*components(self._entries(), dims))

    # a property, as in CodecWrapper: a codec that is fitted later has others
    @property
    def duplicate_codes(self) -> frozenset[tuple[int, int]]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Entries that have another's place among the components, and quantise to its index."""
        return find_duplicate_codes(self)

    def embed(self, codes: Tensor) -> Tensor:
        """(b, k, l) codes -> (b, k, dims, l) reduced entries."""
        rows = zip(self.table, codes.long().unbind(1), strict=True)
        return torch.stack([table[row].mT for table, row in rows], dim=1)

    def quantize(self, latents: Tensor) -> Tensor:
        """(b, k, dims, l) latents -> (b, k, l) codes: the nearest of the reduced entries."""
        rows = zip(self.table, latents.to(self.table.dtype).unbind(1), strict=True)
        return torch.stack([_nearest(row.mT, table) for table, row in rows], dim=1)

    def encode_continuous(self, audio: Tensor) -> Tensor:
        """(b, ch, t) audio -> (b, k, dims, l) latents before quantisation, reduced as the entries are."""
        return self._reduced(self.codec.encode_continuous(audio))

    def encode_with_continuous(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(b, ch, t) audio -> (b, k, l) codes and (b, k, dims, l) reduced latents before quantisation."""
        codes, projections = self.codec.encode_with_continuous(audio)
        return codes, self._reduced(projections)

    def fit(self, clips: Iterable[Tensor], *, seed: int = 0) -> None:
        """Fit the wrapped codec to clips of audio (ch, t), and reduce the entries that it then has."""
        super().fit(clips, seed=seed)
        self._take(*components(self._entries(), self.codebook_dim))

    def fitted_state(self) -> dict[str, Tensor]:
        """State of the wrapped codec, and the components."""
        return {**super().fitted_state(), "mean": self.mean, "basis": self.basis}

    def load_fitted_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `fitted_state` gave."""
        if missing := {"mean", "basis"} - state.keys():
            raise ValueError(f"The state of a reduced codec lacks its {' and '.join(sorted(missing))}.")
        super().load_fitted_state(state)
        self._take(state["mean"].to(self.mean), state["basis"].to(self.basis))

    def _entries(self) -> Tensor:
        """Give the entries (k, entries, d) of the wrapped codec."""
        codes = torch.arange(self.codebook_size, device=device_of(self.codec)).expand(1, self.codec.num_codebooks, -1)
        return self.codec.embed(codes)[0].mT

    def _take(self, mean: Tensor, basis: Tensor) -> None:
        """Take on components, and reduce the entries with them."""
        centred = self._entries() - mean
        self.mean, self.basis, self.table = mean, basis, centred @ basis
        self.explained_variance = self.table.var(1).sum(-1) / centred.var(1).sum(-1)

    def _reduced(self, latents: Tensor) -> Tensor:
        """(b, k, d, l) latents of the wrapped codec -> (b, k, dims, l)."""
        with exactly(latents.device):
            return ((latents.mT - self.mean) @ self.basis).mT


def _projects(codec: Codec) -> bool:
    """Tell whether a codec has projections of its own, and not the entries of its codes."""
    while isinstance(codec, CodecWrapper):
        codec = codec.codec
    return type(codec).encode_continuous is not Codec.encode_continuous


@torch.no_grad()
def components(entries: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Give the mean (k, 1, d) and the first principal components (k, d, count) of entries (k, n, d).

    Computed in float64, each component's largest part positive, so that they are the same everywhere but for rounding.
    """
    exact = entries.double()
    mean = exact.mean(1, keepdim=True)
    _, vectors = torch.linalg.eigh((exact - mean).mT @ (exact - mean))  # ascending
    basis = vectors[..., -count:].flip(-1)
    largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
    return mean.to(entries.dtype), (basis * largest.sign()).to(entries.dtype)


def _nearest(points: Tensor, table: Tensor) -> Tensor:
    """(b, l, dims) points -> (b, l) index of the nearest row of a table (n, dims), the first of equals."""
    # differences and not products: an entry is at distance 0 of itself exactly, and no row depends on its batch
    return torch.stack(
        [torch.cdist(row, table, compute_mode="donot_use_mm_for_euclid_dist").argmin(-1) for row in points]
    )
