"""Which tracks of one data set are most like another's, by the likelihood of a Gaussian over embeddings.

DiscoDiff trains on the 20 % of FMA most like MTG-Jamendo. A track is the mean of its windows' embeddings; a Gaussian is
fitted to the reference tracks, and the log-likelihood under it ranks the others.
"""

from __future__ import annotations

import io
import json
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.csv
import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from codecdiff.data import CachedEmbedder
from codecdiff.data.manifest import Manifest, ManifestRow
from codecdiff.data.metadata import Report, Track
from codecdiff.errors import InvalidValue
from codecdiff.files import atomic_write, atomic_write_text, write_parquet
from codecdiff_datasets.join import JoinColumns, join, number, read_records
from codecdiff_datasets.templates import render

KEY = b"codecdiff.ranking"  # of the parquet file's own metadata
MIN_VARIANCE = 1e-10  # in any direction, relative to the largest; smaller ones are raised to it
NAMES = ("track", "id", "track_id")  # columns that name a track in a ranking made elsewhere
LIKELIHOODS = ("log_likelihood", "CLAP-log-likelihood")
NUM_BINS = 40  # of the histogram


class Gaussian(NamedTuple):
    """A normal distribution over embeddings: its mean (e,) and the Cholesky factor L (e, e) of its covariance L L'."""

    mean: Tensor
    factor: Tensor

    @classmethod
    def fit(cls, samples: Tensor) -> Gaussian:
        """Fit (n, e) samples in float64, with the covariance shrunk after Ledoit and Wolf (2004).

        Warns if samples are at most as many as dimensions, and raises variances that vanish. Raises InvalidValue if
        all samples are the same.
        """
        n, e = samples.shape
        if n <= e:
            warnings.warn(
                f"{n} tracks cannot show how {e} dimensions vary: their covariance is completed by shrinkage. "
                "The ranking is defined, but rely on it only with more tracks.",
                stacklevel=2,
            )
        samples = samples.double().cpu()
        covariance = torch.from_numpy(ledoit_wolf(samples.numpy())[0])
        variances = torch.linalg.eigvalsh(covariance)
        if not variances[-1] > 0:
            raise InvalidValue(f"All {n} tracks have the same embedding: no Gaussian can be fitted. Use other tracks.")
        missing = (MIN_VARIANCE * variances[-1] - variances[0]).clamp(min=0)
        return cls(samples.mean(0), torch.linalg.cholesky(covariance + missing * torch.eye(e, dtype=samples.dtype)))

    def log_likelihood(self, samples: Tensor) -> Tensor:
        """(n, e) samples -> (n,) log density, - (e log 2 pi + log |C| + |L^-1 (x - m)|^2) / 2 with C = L L'."""
        whitened = torch.linalg.solve_triangular(self.factor, (samples.double().cpu() - self.mean).T, upper=False)
        volume = 2 * self.factor.diagonal().log().sum()
        return -(len(self.mean) * math.log(2 * math.pi) + volume + whitened.square().sum(0)) / 2


class RankedTrack(NamedTuple):
    """One row of a ranking. Rank 1 is the most likely; the percentile is the percentage that is at most as likely."""

    track: str
    log_likelihood: float
    rank: int
    percentile: float
    selected: bool


@dataclass(frozen=True)
class Ranking:
    """Tracks by falling likelihood, the likelihoods of the reference tracks, and what both follow from."""

    rows: Sequence[RankedTrack]
    reference: Sequence[float]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def selected(self) -> list[RankedTrack]:
        """The rows that are selected: the first ones."""
        return [row for row in self.rows if row.selected]

    def write(self, file: Path) -> None:
        """Write the table as CSV, and then beside it as parquet, each whole or not at all."""
        table = pa.Table.from_pylist([row._asdict() for row in self.rows])
        with atomic_write(file.with_suffix(".csv")) as temporary:
            pyarrow.csv.write_csv(table, temporary)
        write_parquet(file, table.replace_schema_metadata({KEY: json.dumps(dict(self.facts)).encode()}))


def track_means(cache: CachedEmbedder, tracks: Sequence[Track]) -> tuple[list[str], Tensor]:
    """Return the names of the tracks that were embedded, in order, and the means (n, e) of their windows."""
    means = {track.name: embedding.vectors.double().mean(0).float() for track, embedding in cache.read(tracks)}
    return list(means), torch.stack(list(means.values())) if means else torch.empty(0, 0)


def num_selected(keep: str, count: int) -> int:
    """Return how many of `count` tracks to select: "20%" of them, rounded, and at least one; or "500", as many.

    Raises InvalidValue for anything else.
    """
    relative = keep.endswith("%")
    try:
        number = float(keep[:-1]) if relative else int(keep)
    except ValueError:
        number = math.nan
    if not 0 < number <= (100 if relative else math.inf):
        raise InvalidValue(f"Invalid keep={keep}: write a fraction such as 20%, or a number such as 500.")
    return min(count, max(1, round(count * number / 100)) if relative else int(number))


def ranked_tracks(names: Sequence[str], likelihoods: Sequence[float], keep: str) -> list[RankedTrack]:
    """Order tracks by falling log-likelihood, equals by name, and mark those that are selected (`num_selected`)."""
    count = len(names)
    last = num_selected(keep, count)
    ordered = sorted(zip(names, likelihoods, strict=True), key=lambda pair: (-pair[1], pair[0]))
    return [
        RankedTrack(name, value, i, 100 * (count - i + 1) / count, i <= last)
        for i, (name, value) in enumerate(ordered, 1)
    ]


def rank_manifests(
    reference: Manifest,
    candidates: Manifest,
    cache: CachedEmbedder,
    *,
    keep: str = "20%",
    progress: Callable[[int], None] = lambda count: None,
) -> tuple[Ranking, list[str]]:
    """Rank the candidates by how like they are to the reference, and name the files that were skipped.

    `progress` is called with the number of tracks done, of both. Raises InvalidValue if one has nothing to embed.
    """
    num_selected(keep, 1)  # raises before the work, not after it
    references, others = reference.tracks(), candidates.tracks()
    if len(references) < 2 or not others:
        raise InvalidValue(
            f"Only {len(references)} of {len(reference)} reference tracks and {len(others)} of {len(candidates)} "
            "candidates have audio: at least 2 and 1 are needed. Fetch the audio, or import again where it is."
        )
    skipped = cache.fill(references, progress)
    skipped += cache.fill(others, lambda count: progress(len(references) + count))
    fitted, samples = track_means(cache, references)
    names, ranked = track_means(cache, others)
    if len(fitted) < 2 or not names:
        raise InvalidValue("Too few files could be read:\n" + "\n".join(skipped))
    gaussian = Gaussian.fit(samples)
    facts = {name: cache.config[name] for name in ("embedder", "weights", "resampler", "mono")}
    facts |= {"reference": len(fitted), "candidates": len(names), "skipped": len(skipped), "keep": keep}
    rows = ranked_tracks(names, gaussian.log_likelihood(ranked).tolist(), keep)
    return Ranking(rows, gaussian.log_likelihood(samples).tolist(), facts), skipped


def selected_manifest(ranking: Ranking, candidates: Manifest) -> Manifest:
    """Return the manifest of the selected tracks, most likely first, each with its rank in its metadata."""
    rows = {row.track: row for row in candidates.rows}

    def with_rank(ranked: RankedTrack) -> ManifestRow:
        row = rows[ranked.track]
        return replace(row, metadata={**row.metadata, "rank": ranked.rank, "percentile": ranked.percentile})

    facts = {**candidates.facts, "ranking": dict(ranking.facts)}
    facts.pop("request", None)  # of the command that made the candidates
    return Manifest(candidates.audio, [with_rank(ranked) for ranked in ranking.selected], facts)


# Comparison with other rankings


def read_likelihoods(file: Path, report: Report) -> tuple[list[Mapping[str, Any]], JoinColumns]:
    """Read a ranking made elsewhere, CSV or parquet, such as FMA-rank (`id`, `CLAP-log-likelihood`) or ours.

    Returns its records, and the columns that hold tracks and log-likelihoods. Raises MissingFile if the file does not
    exist, and InvalidValue if it lacks these columns.
    """
    records = list(read_records(str(file), report))
    columns = list(records[0]) if records else []
    name = next((column for column in NAMES if column in columns), None)
    value = next((column for column in LIKELIHOODS if column in columns), None)
    if name is None or value is None:
        raise InvalidValue(
            f"'{file}' is not a ranking: it needs a column of {', '.join(NAMES)} and one of {', '.join(LIKELIHOODS)}, "
            f"and has {', '.join(columns) or 'no rows'}."
        )
    return records, JoinColumns(name, metadata=[value])


def agreement(
    ranking: Ranking, candidates: Manifest, records: Sequence[Mapping[str, Any]], columns: JoinColumns
) -> tuple[float, int]:
    """Compare a ranking with one made elsewhere (`read_likelihoods`), whose tracks are matched as `join` does.

    Returns Spearman's coefficient over the tracks that both have, and how many these are. Rows without a finite number
    are left out. Raises InvalidValue if fewer than three match.
    """
    from scipy.stats import spearmanr

    joined = join([replace(row, metadata={}) for row in candidates.rows], records, columns)
    theirs = {row.track: number(row.metadata.get(columns.metadata[0])) for row in joined.rows}
    pairs = [(row.log_likelihood, theirs[row.track]) for row in ranking.rows if theirs[row.track] is not None]
    if len(pairs) < 3:
        examples = f"'{ranking.rows[0].track}' is one of ours, '{records[0][columns.id]}' of theirs"
        raise InvalidValue(f"Only {len(pairs)} tracks are in both rankings; a comparison needs 3. {examples}.")
    ours, others = zip(*pairs, strict=True)
    result: Any = spearmanr(ours, others)
    return float(result.statistic), len(pairs)


# The report


def histogram(ranking: Ranking) -> str:
    """Draw the log-likelihoods of ranked and of reference tracks, and where the selection ends, as SVG.

    The axis spans 98 % of the tracks, and the outer bins hold what lies beyond them.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    ranked = [row.log_likelihood for row in ranking.rows]
    low, high = np.quantile([*ranked, *ranking.reference], [0.01, 0.99])
    edges = np.linspace(low, high if high > low else low + 1, NUM_BINS + 1)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "ranking"}):
        figure = Figure(figsize=(9, 3), layout="constrained")
        axes = figure.subplots()
        for values, label in ((ranked, "ranked"), (ranking.reference, "reference")):
            inside = np.clip(values, edges[0], edges[-1])
            axes.hist(inside, edges, weights=np.full(len(inside), 1 / len(inside)), alpha=0.6, label=label)
        axes.axvline(ranking.selected[-1].log_likelihood, color="black", label="threshold of the selection")
        axes.set(xlabel="log-likelihood", ylabel="fraction of the tracks", xlim=(edges[0], edges[-1]))
        axes.legend()
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue().partition("?>")[2].partition(">")[2]  # without the XML header and the document type


def write_ranking_report(file: Path, ranking: Ranking, candidates: Manifest, *, num_examples: int = 10) -> None:
    """Write a page with the histogram and, with their audio, tracks from both ends and around the threshold."""
    selected, dropped = ranking.selected, [row for row in ranking.rows if not row.selected]
    groups = {
        "Most like the reference": selected[:num_examples],
        "Selected, by a narrow margin": selected[num_examples:][-num_examples:],
        "Dropped, by a narrow margin": dropped[:num_examples],
        "Least like the reference": dropped[num_examples:][-num_examples:],
    }
    rows = {row.track: row for row in candidates.rows}

    def example(ranked: RankedTrack) -> tuple[RankedTrack, str, str]:
        """Return a track with what is known of it, and the address of its audio, relative to the report."""
        row = rows[ranked.track]
        about = " · ".join(filter(None, (row.title, row.artist, *chain.from_iterable(row.tags.values()))))
        return ranked, about, quote(Path(os.path.relpath(candidates.file_of(row), file.parent)).as_posix())

    html = render(
        "ranking.html",
        title=f"{len(selected)} of {len(ranking.rows)} tracks selected",
        facts=ranking.facts,
        histogram=histogram(ranking),
        groups={title: list(map(example, ranked)) for title, ranked in groups.items() if ranked},
    )
    atomic_write_text(file, html)
