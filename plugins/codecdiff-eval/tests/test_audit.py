import json

import numpy as np
import pytest
import soundfile
import torch
from codecdiff_eval.audit import (
    COARSE,
    CUT,
    FRESH,
    PLAYED,
    AuditConfig,
    SetMatches,
    WindowIndex,
    _num_equal,
    audit_memorization,
)
from codecdiff_eval.audit_report import add_to_model_card, write_audit
from codecdiff_eval.eval_sets import GENERATED
from codecdiff_eval.report import Report, write_report
from typer.testing import CliRunner

from codecdiff import rng
from codecdiff.cli.main import app
from codecdiff.data import encode_tracks, find_tracks
from codecdiff.errors import InvalidValue
from codecdiff.files import read_json
from codecdiff.training import rows_hash

RATE, TRACKS, SECONDS = 16_000, 6, 4.0
SETTINGS = AuditConfig(clips=6, seconds=1.5, window=1.0, candidates=20)


def write_tunes(folder, seed):
    """Write tracks of notes that follow no pattern, each of 0.1 s, so that no two places are alike."""
    random = np.random.default_rng(seed)
    for i in range(TRACKS):
        notes = random.uniform(80, 4000, round(SECONDS / 0.1)).repeat(round(0.1 * RATE))
        soundfile.write(folder / f"{i}.wav", 0.5 * np.sin(2 * np.pi * notes.cumsum() / RATE), RATE)
        (folder / f"{i}.txt").write_text(f"tune {i}")
    return folder


@pytest.fixture(scope="module")
def stores(dac, codec_spec, tmp_path_factory):
    """The store a model was trained on, and one of other music."""
    folders = [write_tunes(tmp_path_factory.mktemp("tunes"), seed) for seed in (1, 2)]
    out = tmp_path_factory.mktemp("stores")
    return [encode_tracks(find_tracks(f), out / f.name, dac, codec_spec)[0] for f in folders]


def test_planted_copies_are_found_and_neither_fresh_music_nor_noise_counts(make_pipeline, stores):
    result = audit_memorization(make_pipeline(), stores[0], SETTINGS, fresh=stores[1])
    assert list(result.sets) == [GENERATED, FRESH, CUT, PLAYED]
    assert result.sets[CUT].rate.value == 1
    assert all(match.levels == (1.0,) * len(match.levels) for match in result.sets[CUT].matches)
    assert result.sets[FRESH].rate.value == result.sets[GENERATED].rate.value == 0
    assert all(prompt["text"].startswith("tune ") for prompt in result.prompts)
    assert f"{len(result.sets[CUT].matches)} of {len(result.sets[CUT].matches)}" in result.sentence


def test_a_model_that_plays_its_training_music_is_found_out_and_the_place_is_named(make_pipeline, stores, monkeypatch):
    pipeline, places = make_pipeline(), []

    def from_memory(prompts, frames, *, seed):
        lengths = stores[0].rows.array("frames")
        for i in range(len(prompts)):
            start = int(rng.numpy_generator("test", seed, i).integers(lengths[i % TRACKS] - frames))
            places.append((i % TRACKS, start))
            codes = stores[0].codes(i % TRACKS, start, frames).astype(np.int64)
            yield torch.from_numpy(codes).T[None]

    monkeypatch.setattr(pipeline, "generate_codes", from_memory)
    result = audit_memorization(pipeline, stores[0], SETTINGS, fresh=stores[1])
    assert result.sets[GENERATED].rate.value == 1
    found = [(match.row, match.start - match.position) for match in result.sets[GENERATED].matches]
    assert found == places
    assert result.closer_than_fresh == 1


def test_windows_are_described_by_mean_and_deviation_of_their_coarse_vectors(stores, dac, monkeypatch):
    monkeypatch.setattr("codecdiff_eval.audit.PART", 7)  # hops, in which no row ends
    rows, lengths = [2, 0, 0, 5], stores[0].rows.array("frames")
    index = WindowIndex.of(stores[0], rows, dac, 20)
    assert index.places.tolist() == [[row, at] for row in rows for at in range(0, lengths[row] // 10 * 10 - 10, 10)]
    windows = torch.from_numpy(stores[0].crops(*index.places.T, 20).astype(np.int64)).transpose(1, 2)
    vectors = dac.embed(windows)[:, :COARSE].double()  # (n, COARSE, d, 20)
    described = torch.cat([vectors.mean(3), vectors.std(3, unbiased=False)], 1).flatten(1)
    torch.testing.assert_close(index.center.double(), described.mean(0), atol=1e-4, rtol=0)
    expected = (described - described.mean(0)) / (described.std(0) * described.shape[1] ** 0.5)
    torch.testing.assert_close(index.moments.double(), expected, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("frames", [20, 255, 256, 600])
def test_equal_codes_are_counted_at_every_offset(frames):
    codes = np.random.default_rng(0).integers(0, 3, (5, frames + 30)).astype(np.uint16)
    window = codes[3, 11 : 11 + frames].copy()
    expected = (np.lib.stride_tricks.sliding_window_view(codes, frames, 1) == window).sum(2)
    assert expected[3, 11] == frames
    assert np.array_equal(_num_equal(codes, window), expected)


def test_all_windows_are_compared_whatever_the_chunk(stores, dac, monkeypatch):
    index = WindowIndex.of(stores[0], range(TRACKS), dac, 20)
    whole = index.nearest(index.moments[:5].float(), 7)
    monkeypatch.setattr("codecdiff_eval.audit.CHUNK", 3)
    for of_chunks, expected in zip(index.nearest(index.moments[:5].float(), 7), whole, strict=True):
        torch.testing.assert_close(of_chunks, expected, atol=1e-3, rtol=0)
    assert whole[1][:, 0].tolist() == list(range(5))


def test_what_is_behind_the_end_of_a_track_is_no_music(stores, dac, monkeypatch):
    index = WindowIndex.of(stores[0], [0], dac, 20)
    length = int(stores[0].rows.array("frames")[0])
    stored = stores[0].codes_reader.read
    monkeypatch.setattr(stores[0], "crops", lambda rows, starts, count: padded(stored(0), starts, count))
    end = np.concatenate([np.asarray(stored(0))[length - 10 :], np.zeros((10, dac.num_codebooks), np.uint16)])
    _, start, levels = index._laid_over(end, torch.arange(len(index.places)))
    assert start + 20 <= length
    assert levels[0] < 0.5


def padded(codes, starts, count):
    """Crops of one track, with zeros behind its end, as `CodeStore.crops` returns them."""
    long = np.concatenate([codes, np.zeros((count, codes.shape[1]), codes.dtype)])
    return np.stack([long[start : start + count] for start in starts])


def test_another_store_than_that_of_the_model_is_refused(make_pipeline, stores):
    pipeline = make_pipeline()
    pipeline.data = {"hash": rows_hash(stores[1])}
    with pytest.raises(InvalidValue, match="is not the store that the model was trained on"):
        audit_memorization(pipeline, stores[0], SETTINGS, fresh=stores[1])
    pipeline.data = {"hash": rows_hash(stores[0])}
    assert audit_memorization(pipeline, stores[0], SETTINGS, fresh=stores[1]).sets[CUT].rate.value == 1


def test_the_interval_of_no_copies_is_not_empty():
    none, low, high = SetMatches([], [False] * 64).rate
    assert (none, low) == (0, 0)
    assert 0.05 < high < 0.06
    assert SetMatches([], [True] * 64).rate.low == pytest.approx(1 - high)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clips": 2}, "Invalid number of clips 2: expected at least 4"),
        ({"window": 9.0}, "Invalid window of 9 s: expected 0.5 to the 6 s of a clip"),
        ({"threshold": 0}, "Invalid threshold 0: expected a part of a window"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(InvalidValue, match=message):
        AuditConfig(**settings)


def test_music_to_compare_with_has_to_be_there(make_pipeline, stores):
    with pytest.raises(InvalidValue, match="name a store of such music with --fresh"):
        audit_memorization(make_pipeline(), stores[0], SETTINGS)
    with pytest.raises(InvalidValue, match=r"No track of .* fills a window of"):
        audit_memorization(make_pipeline(), stores[0], AuditConfig(seconds=90, window=80), fresh=stores[1])


def test_the_report_shows_pairs_and_the_model_card_gets_one_sentence(make_pipeline, stores, tmp_path):
    pipeline = make_pipeline()
    result = audit_memorization(pipeline, stores[0], SETTINGS, fresh=stores[1])
    page = write_audit(result, pipeline, stores[0], tmp_path / "out", "codecdiff audit").read_text(encoding="utf-8")
    assert page.count("<audio") == 2 * SETTINGS.clips
    report = read_json(tmp_path / "out" / "report.json")
    assert report["sets"][CUT]["matches"][0]["track"].endswith(".wav")
    for sentence in ("The first.", "The second."):
        add_to_model_card(pipeline.save_pretrained(tmp_path / "model") or tmp_path / "model", sentence)
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert card.count("## Memorization") == 1
    assert "The second." in card


def test_the_command_audits_a_model_folder(make_pipeline, stores, tmp_path):
    make_pipeline().save_pretrained(tmp_path / "model")
    words = ["audit", str(tmp_path / "model"), "--store", str(stores[0].folder), "--fresh", str(stores[1].folder)]
    options = ["-o", str(tmp_path / "out"), "--n", "4", "--seconds", "1.5", "--window", "1", "--model-card", "--json"]
    ran = CliRunner().invoke(app, [*words, *options, "--allow-local-parts"])
    assert ran.exit_code == 0, ran.output
    assert "generating 4 clips" in ran.stderr
    assert json.loads(ran.stdout)["sets"][CUT]["rate"]["value"] == 1
    assert "Planted copies found: 4 of 4" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    page = write_report(Report("mine", [], kicker="codecdiff · training run"), tmp_path / "out")
    before = page.read_bytes()
    again = CliRunner().invoke(app, [*words, *options, "--allow-local-parts"])
    assert again.exit_code == 1
    assert "of 'training run' that 'memorization audit' would replace" in " ".join(again.output.split())
    assert "generating" not in again.output
    assert page.read_bytes() == before
