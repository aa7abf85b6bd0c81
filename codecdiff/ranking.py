"""Which tracks of one collection are most like another: by the likelihood of a Gaussian over embeddings.

DiscoDiff trains on the 20 % of FMA most like MTG-Jamendo. A track is the mean of its windows' vectors; a Gaussian is
fitted to the tracks that others are to be like, and the log-likelihood under it ranks the others.
"""

from __future__ import annotations

import csv
import html
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

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import torch
from torch import Tensor

from codecdiff.data.manifests import Manifest, Recording
from codecdiff.embeddings import Embeddings, embed_tracks
from codecdiff.files import atomic_write, atomic_write_text
from codecdiff.interfaces import Embedder
from codecdiff.metrics import ledoit_wolf

KEY = b"codecdiff.ranking"  # of the parquet file's own metadata
SMALLEST = 1e-10  # variance in any direction, over the largest, below which it is raised
SCHEMA = pa.schema(
    [
        ("track", pa.string()),
        ("log_likelihood", pa.float64()),
        ("rank", pa.int64()),
        ("percentile", pa.float64()),
        ("kept", pa.bool_()),
    ]
)
NAMES = ("track", "id", "track_id")  # of the column that names a track, in a ranking made elsewhere
LIKELIHOODS = ("log_likelihood", "CLAP-log-likelihood")


class Gaussian(NamedTuple):
    """A normal distribution over embeddings: its mean (p,) and the Cholesky factor L (p, p) of its covariance L L'."""

    mean: Tensor
    factor: Tensor

    @classmethod
    def fit(cls, samples: Tensor) -> Gaussian:
        """Fit (n, p) samples in float64, the covariance shrunk (`metrics.ledoit_wolf`).

        Warns where there are no more samples than dimensions, and raises variances that vanish. Raises ValueError if
        all samples are the same.
        """
        n, p = samples.shape
        if n <= p:
            warnings.warn(
                f"{n} tracks cannot show how {p} dimensions vary: their covariance is completed by shrinkage. "
                "The ranking is defined, but follow it only with more tracks.",
                stacklevel=2,
            )
        covariance = ledoit_wolf(samples)
        variances = torch.linalg.eigvalsh(covariance)
        if not variances[-1] > 0:
            raise ValueError(f"All {n} tracks have the same embedding: no Gaussian can be fitted. Take other tracks.")
        missing = (SMALLEST * variances[-1] - variances[0]).clamp(min=0)
        raised = covariance + missing * torch.eye(p, dtype=covariance.dtype, device=covariance.device)
        return cls(samples.double().mean(0), torch.linalg.cholesky(raised))

    def log_likelihood(self, samples: Tensor) -> Tensor:
        """(n, p) samples -> (n,) log density, - (p log 2 pi + log |C| + |L^-1 (x - m)|^2) / 2 with C = L L'."""
        whitened = torch.linalg.solve_triangular(self.factor, (samples.double() - self.mean).T, upper=False)
        volume = 2 * self.factor.diagonal().log().sum()
        return -(len(self.mean) * math.log(2 * math.pi) + volume + whitened.square().sum(0)) / 2


class Ranked(NamedTuple):
    """One row of a ranking. Rank 1 is the most likely; the percentile is the share that is no more likely, in %."""

    track: str
    log_likelihood: float
    rank: int
    percentile: float
    kept: bool


@dataclass(frozen=True)
class Ranking:
    """Tracks by falling likelihood, the likelihoods of those they were compared with, and what both follow from."""

    rows: Sequence[Ranked]
    reference: Sequence[float]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kept(self) -> list[Ranked]:
        """The rows that are kept: the first ones."""
        return [row for row in self.rows if row.kept]

    def write(self, file: Path) -> None:
        """Write the table as parquet, and beside it the same as CSV, each whole or not at all."""
        file.parent.mkdir(parents=True, exist_ok=True)
        table = pa.Table.from_pylist([row._asdict() for row in self.rows], SCHEMA)
        with atomic_write(file) as temporary:
            pq.write_table(table.replace_schema_metadata({KEY: json.dumps(dict(self.facts)).encode()}), temporary)
        with atomic_write(file.with_suffix(".csv")) as temporary:
            pyarrow.csv.write_csv(table, temporary)


def track_means(embeddings: Embeddings, tracks: Sequence[str]) -> tuple[list[str], Tensor]:
    """Give the names of those tracks that were embedded, in their order, and the means (n, e) of their windows."""
    asked = set(tracks)
    means = {name: vectors.double().mean(0).float() for name, vectors in embeddings.vectors(asked)}
    found = [name for name in tracks if name in means]
    return found, torch.stack([means[name] for name in found]) if found else torch.empty(0, 0)


def kept_of(keep: str, count: int) -> int:
    """Give how many of `count` tracks to keep: "20%" of them, rounded, and at least one; or "500", as many.

    Raises ValueError for anything else.
    """
    share = keep.endswith("%")
    try:
        number = float(keep[:-1]) if share else int(keep)
    except ValueError:
        number = math.nan
    if not 0 < number <= (100 if share else math.inf):
        raise ValueError(f"keep={keep} is no number of tracks: write a share such as 20%, or a number such as 500.")
    return min(count, max(1, round(count * number / 100)) if share else int(number))


def rank(names: Sequence[str], likelihoods: Sequence[float], keep: str) -> list[Ranked]:
    """Order tracks by falling log-likelihood, equals by name, and mark those that are kept (`kept_of`)."""
    count = len(names)
    most = kept_of(keep, count)
    ordered = sorted(zip(names, likelihoods, strict=True), key=lambda pair: (-pair[1], pair[0]))
    return [
        Ranked(name, value, i, 100 * (count - i + 1) / count, i <= most) for i, (name, value) in enumerate(ordered, 1)
    ]


def rank_manifests(
    like: Manifest,
    of: Manifest,
    folder: Path,
    embedder: Embedder,
    spec: dict[str, Any],
    *,
    keep: str = "20%",
    progress: Callable[[int], None] = lambda count: None,
) -> tuple[Ranking, list[str]]:
    """Rank the tracks of one manifest by how like they are to those of another, and name the files that were skipped.

    Embeddings are kept in `folder`, so a run that was ended goes on; `spec` is the embedder's configuration;
    `progress` is called with the number of tracks done, of both. Raises ValueError if one has nothing to embed.
    """
    kept_of(keep, 1)  # before the work, not after it
    likes, others = like.tracks(), of.tracks()
    if len(likes) < 2 or not others:
        raise ValueError(
            f"Audio is there for {len(likes)} of {len(like)} tracks to be like, and for {len(others)} of {len(of)} to "
            "rank: at least 2 and 1 are needed. Fetch the audio, or import again where it is."
        )
    first, skipped = embed_tracks(likes, folder / "like", embedder, spec, progress=progress)
    second, more = embed_tracks(others, folder / "of", embedder, spec, progress=lambda n: progress(len(likes) + n))
    fitted, samples = track_means(first, [track.name for track in likes])
    names, ranked = track_means(second, [track.name for track in others])
    if len(fitted) < 2 or not names:
        raise ValueError("Too few files could be read:\n" + "\n".join([*skipped, *more]))
    gaussian = Gaussian.fit(samples)
    facts = {
        "embedder": first.header["embedder"],
        "weights": first.header["weights"],
        "resampler": first.header["resampler"],
        "mono": first.header["mono"],
        "like": len(fitted),
        "of": len(names),
        "skipped": len(skipped) + len(more),
        "keep": keep,
    }
    rows = rank(names, gaussian.log_likelihood(ranked).tolist(), keep)
    return Ranking(rows, gaussian.log_likelihood(samples).tolist(), facts), [*skipped, *more]


def kept_manifest(ranking: Ranking, of: Manifest) -> Manifest:
    """Give the manifest of the tracks that are kept, most likely first, each with its rank in its metadata."""
    recordings = {recording.track: recording for recording in of.recordings}

    def told(row: Ranked) -> Recording:
        recording = recordings[row.track]
        return replace(recording, metadata={**recording.metadata, "rank": row.rank, "percentile": row.percentile})

    return Manifest(of.audio, [told(row) for row in ranking.kept], {**of.facts, "ranking": dict(ranking.facts)})


def kept_file(file: Path) -> Path:
    """Name the manifest of what is kept, beside a ranking."""
    return file.with_name(f"{file.stem}-kept.parquet")


def check_output(file: Path, inputs: Sequence[Path] = ()) -> None:
    """Raise ValueError or FileExistsError unless a ranking can be written here: a new file, or over a ranking.

    Neither it nor what is written beside it may be one of the inputs.
    """
    if file.suffix != ".parquet":
        raise ValueError(f"'{file}' is no name for a ranking: let it end in .parquet.")
    written = {path.resolve() for path in (file, file.with_suffix(".csv"), file.with_suffix(".html"), kept_file(file))}
    for path in inputs:
        if path.resolve() in written:
            raise ValueError(f"'{path}' is read, and would be written over by '{file}'. Choose another name for that.")
    if not file.exists():
        return
    try:
        written = KEY in (pq.read_schema(file).metadata or {})
    except (pa.ArrowInvalid, OSError):
        written = False
    if not written:
        raise FileExistsError(f"'{file}' exists and is no ranking. Choose another name.")


class Comparison(NamedTuple):
    """How far two rankings agree: Spearman's coefficient over the tracks that both have."""

    spearman: float
    matched: int


def compare(ranking: Ranking, of: Manifest, theirs: Mapping[str, float]) -> Comparison:
    """Compare a ranking with the log-likelihoods of one made elsewhere (`read_likelihoods`).

    Tracks are matched by name, or by the name of their file without its ending; leading zeros do not count. Raises
    ValueError if fewer than three match.
    """
    from scipy.stats import spearmanr

    recordings = {recording.track: recording for recording in of.recordings}
    pairs = []
    for row in ranking.rows:
        names = (row.track, Path(recordings[row.track].file).stem)
        found = next((theirs[key] for key in map(_plain_name, names) if key in theirs), None)
        if found is not None:
            pairs.append((row.log_likelihood, found))
    if len(pairs) < 3:
        examples = f"'{ranking.rows[0].track}' is one of ours, '{next(iter(theirs), '')}' of theirs"
        raise ValueError(f"Only {len(pairs)} tracks are in both rankings; a comparison needs 3. {examples}.")
    ours, others = zip(*pairs, strict=True)
    agreement: Any = spearmanr(ours, others)
    return Comparison(float(agreement.statistic), len(pairs))


def _plain_name(name: str) -> str:
    return (name.lstrip("0") or "0") if name.isdigit() else name


def read_likelihoods(file: Path) -> dict[str, float]:
    """Read the log-likelihoods of a ranking: CSV or parquet, such as FMA-rank (`id`, `CLAP-log-likelihood`) or ours.

    Names lose leading zeros; rows without a finite number are left out. Raises FileNotFoundError if there is no such
    file, and ValueError if it has no such columns.
    """
    if not file.is_file():
        raise FileNotFoundError(f"There is no ranking '{file}' to compare with.")
    if file.suffix == ".csv":
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream))
    else:
        try:
            rows = pq.read_table(file).to_pylist()
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"'{file}' cannot be read as parquet: {error}. Give a .csv or .parquet file.") from error
    columns = list(rows[0]) if rows else []
    name = next((column for column in NAMES if column in columns), None)
    value = next((column for column in LIKELIHOODS if column in columns), None)
    if name is None or value is None:
        raise ValueError(
            f"'{file}' is no ranking: it needs a column of {', '.join(NAMES)} and one of {', '.join(LIKELIHOODS)}, "
            f"and has {', '.join(columns) or 'no rows'}."
        )
    numbers = {_plain_name(str(row[name])): _number(row[value]) for row in rows}
    return {key: number for key, number in numbers.items() if math.isfinite(number)}


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


BARS = 40
WIDTH, HEIGHT = 800, 240  # of the histogram, in units of SVG
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; padding: .2rem .6rem; vertical-align: top }
tr:nth-child(even) { background: #8882 } .of { fill: #3b6ea5 } .like { fill: #d98b2b; opacity: .6 }
svg { width: 100% } svg text { font-size: 13px; fill: currentColor } line { stroke: currentColor }
"""


def histogram(ranking: Ranking) -> str:
    """Draw, as SVG, the shares of both collections over log-likelihood, and the least likelihood that is kept.

    The ends hold what lies beyond them: the axis spans 98 % of the tracks.
    """
    values = {"of": [row.log_likelihood for row in ranking.rows], "like": list(ranking.reference)}
    everything = torch.tensor([*values["of"], *values["like"]], dtype=torch.float64)
    low, high = torch.quantile(everything, torch.tensor([0.01, 0.99], dtype=torch.float64)).tolist()
    high = high if high > low else low + 1
    shares = {name: _shares(numbers, low, high) for name, numbers in values.items()}
    unit, tallest = WIDTH / BARS, max(max(share) for share in shares.values())
    bars = [
        f'<rect class="{name}" x="{i * unit:.1f}" y="{HEIGHT * (1 - share / tallest):.1f}" width="{unit - 1:.1f}" '
        f'height="{HEIGHT * share / tallest:.1f}"/>'
        for name, bins in shares.items()
        for i, share in enumerate(bins)
    ]
    place = WIDTH * min(max((ranking.kept[-1].log_likelihood - low) / (high - low), 0), 1)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 24}" role="img">{"".join(bars)}'
        f'<line x1="{place:.1f}" x2="{place:.1f}" y1="0" y2="{HEIGHT}"/>'
        f'<text x="0" y="{HEIGHT + 18}">{low:.4g}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT + 18}" text-anchor="end">{high:.4g}</text></svg>'
    )


def _shares(numbers: Sequence[float], low: float, high: float) -> list[float]:
    clamped = torch.tensor(numbers, dtype=torch.float64).clamp(low, high)
    return (torch.histc(clamped, BARS, low, high) / len(numbers)).tolist()


def write_report(file: Path, ranking: Ranking, of: Manifest, *, examples: int = 10) -> None:
    """Write a page that shows the histogram and, with their audio, the first, last kept, first dropped and last."""
    kept, dropped = ranking.kept, [row for row in ranking.rows if not row.kept]
    groups = {
        "Most like": kept[:examples],
        "Kept, but only just": kept[examples:][-examples:],
        "Dropped, but only just": dropped[:examples],
        "Least like": dropped[examples:][-examples:],
    }
    recordings = {recording.track: recording for recording in of.recordings}
    tables = [
        f"<h2>{title}</h2>{_examples(rows, recordings, of, file.parent)}" for title, rows in groups.items() if rows
    ]
    facts = ranking.facts
    told = html.escape(json.dumps(facts.get("embedder", {})))
    atomic_write_text(
        file,
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Ranking</title><style>{STYLE}</style>'
        f"<h1>{len(kept)} of {len(ranking.rows)} tracks kept</h1>"
        f"<p>By the log-likelihood of their mean embedding under a Gaussian fitted to {facts.get('like')} tracks. "
        f"Embedder: <code>{told}</code>, weights {facts.get('weights')}; audio resampled by {facts.get('resampler')}, "
        f"{facts.get('mono')}. {facts.get('skipped', 0)} files could not be read.</p>"
        "<p>Shares over log-likelihood: blue the tracks that are ranked, orange those the Gaussian was fitted to "
        f"(which favours them). Right of the line is kept.</p>{histogram(ranking)}{''.join(tables)}</html>\n",
    )


def _examples(rows: Sequence[Ranked], recordings: Mapping[str, Recording], of: Manifest, folder: Path) -> str:
    """Show rows as a table, with what is known of their tracks, linked to their audio as seen from a folder."""

    def shown(row: Ranked) -> str:
        recording = recordings[row.track]
        link = html.escape(quote(Path(os.path.relpath(of.file_of(recording), folder)).as_posix()))
        about = " · ".join(
            filter(None, (recording.title, recording.artist, *chain.from_iterable(recording.tags.values())))
        )
        return (
            f"<tr><td>{row.rank}<td>{row.log_likelihood:.5g}<td>{row.percentile:.1f}<td>{html.escape(row.track)}"
            f'<td>{html.escape(about)}<td><audio controls preload="none" src="{link}"></audio>'
        )

    head = "<tr><th>rank<th>log-likelihood<th>percentile<th>track<th>about<th>audio"
    return f"<table>{head}{''.join(map(shown, rows))}</table>"
