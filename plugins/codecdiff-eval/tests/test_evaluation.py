"""Evaluation: prompts are read and drawn, clips cut, embedded and generated once, and every result has its context."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from codecdiff_eval import generation
from codecdiff_eval.embedders import LogMel
from codecdiff_eval.embeddings import ClipCutter, ClipEmbedder, ClipEmbeddings, clip_name, start_of, track_of
from codecdiff_eval.eval_sets import (
    CODEC_RECONSTRUCTION,
    GENERATED,
    NOISE,
    EvalSets,
    edit_mask_of,
    encode_clips,
    first_stages_mask,
    generate_sets,
    noise_codes,
    oracle,
)
from codecdiff_eval.evaluation_report import add_model_index, table_one
from codecdiff_eval.generation import Generator, counted_warnings, cut_sources
from codecdiff_eval.listening.systems import read_systems
from codecdiff_eval.metric import load_metric
from codecdiff_eval.metrics.adherence import (
    ClipEstimator,
    requested_instruments,
    tempo,
    tempo_estimator,
)
from codecdiff_eval.numbers import format_number, interval_width
from codecdiff_eval.prompts import EvalPrompt, prompt_of, read_prompts, sample_prompts
from codecdiff_eval.report import Report, write_report
from codecdiff_eval.results import EmbeddingConfig, EvalReport, IncomparableError, NotMeasured
from codecdiff_eval.suites import load_suite
from small import RATE, noise, tone, write_music
from typer.testing import CliRunner

from codecdiff import registry
from codecdiff.cli import console
from codecdiff.cli.main import app
from codecdiff.conditioners import requested_key, requested_tempo
from codecdiff.data.audio import BadAudio, read_audio
from codecdiff.data.manifest import Manifest, ManifestRow
from codecdiff.data.metadata import Track, find_tracks
from codecdiff.interfaces import prompt_fields
from codecdiff.pipeline.model_card import write_model_card
from codecdiff.pipeline.pipeline import Pipeline
from codecdiff.pipeline.provenance import GenerationRequest
from codecdiff.testing.tiny import write_tiny

Make = Callable[..., Pipeline]
FAST = ("--metric", "fad-per-track", "--metric", "density")
MUSICCAPS = (
    "ytid,start_s,end_s,audioset_positive_labels,aspect_list,caption,author_id,is_balanced_subset,is_audioset_eval"
)


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.out, "width", 400)


@pytest.fixture
def model(make_pipeline: Make, tmp_path: Path) -> Path:
    make_pipeline().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    (tmp_path / "prompts.txt").write_text("drums\n\na slow tune\nloud strings\na flute\n")
    return tmp_path / "prompts.txt"


def evaluate(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def musiccaps(file: Path) -> Path:
    """Write a table as MusicCaps is published: two good rows for evaluation, one for training, four that are not."""
    rows = [
        'aaaaaaaaaa1,30,40,/m/04rlf,"[\'calm\']","Calm, ""quiet"" piano.",4,False,True',
        "aaaaaaaaaa2,0,10,/m/04rlf,['loud'],A loud band.,4,False,True",
        "aaaaaaaaaa3,0,10,/m/04rlf,['loud'],A training clip.,4,False,False",
        "aaaaaaaaaa4,0,10,/m/04rlf,['loud'],,4,False,True",
        "aaaaaaaaaa5,0,10,/m/04rlf,['loud'],Neither.,4,False,Maybe",
        "aaaaaaaaaa6,0,10,/m/04rlf,['loud'],A loud band.,4,False,True",
    ]
    lines = [line.encode() for line in (MUSICCAPS, *rows)]
    file.write_bytes(b"\n".join([*lines, b"aaaaaaaaaa7,0,10,/m/04rlf,['loud'],Caf\xe9.,4,False,True"]) + b"\n")
    return file


# Prompts.


def test_of_musiccaps_the_evaluation_captions_are_asked_and_faulty_rows_named(tmp_path: Path) -> None:
    faults: list[Any] = []
    asked = read_prompts(musiccaps(tmp_path / "musiccaps.csv"), faults.append)
    assert [prompt.fields["text"] for prompt in asked] == ['Calm, "quiet" piano.', "A loud band."]
    told = "\n".join(map(str, faults))
    for said in (
        "line 5, caption",
        "line 6, is_audioset_eval",
        "line 8: It holds bytes that are not UTF-8",
        "prompt 2",
    ):
        assert said in told, told
    assert len(faults) == 4
    everything = read_prompts(tmp_path / "musiccaps.csv", faults.append, split="all")
    assert "A training clip." in [prompt.fields["text"] for prompt in everything]
    with pytest.raises(ValueError, match="Nothing is of the split 'validation'"):
        read_prompts(tmp_path / "musiccaps.csv", faults.append, split="validation")


def test_lists_of_every_kind_are_read(tmp_path: Path) -> None:
    faults: list[Any] = []
    (tmp_path / "a.jsonl").write_text(
        '"a string"\n{"file_name": "x.wav", "captions": ["one", "two"], "bpm": 99}\n{"text": 3\n[1]\n{"bpm": 5}\n'
    )
    asked = read_prompts(tmp_path / "a.jsonl", faults.append)
    assert [dict(prompt.fields) for prompt in asked] == [{"text": "a string"}, {"text": "one", "bpm": 99}]
    assert [fault.line for fault in faults] == [3, 4, 5]
    (tmp_path / "b.csv").write_text("caption,key\nslow,Am\n,Am\n")
    assert [dict(p.fields) for p in read_prompts(tmp_path / "b.csv", faults.append)] == [{"text": "slow", "key": "Am"}]
    rows = [ManifestRow("one", captions=["a tune"], split="test", tags={"instrument": ["harp"]}), ManifestRow("two")]
    Manifest(tmp_path, rows, {"source": "folder"}).write(tmp_path / "c.parquet")
    asked = read_prompts(tmp_path / "c.parquet", faults.append)
    assert [(p.fields["text"], p.fields["instruments"]) for p in asked] == [("a tune", ["harp"])]


def test_a_line_with_half_a_character_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('"one"\n"half \\ud83d"\n"whole \\ud83d\\ude00"\n')
    faults: list[Any] = []
    assert [p.fields["text"] for p in read_prompts(tmp_path / "a.jsonl", faults.append)] == ["one", "whole \U0001f600"]
    assert "line 2: It holds half of a character" in str(faults[0])


@pytest.mark.parametrize(
    ("tags", "instruments"),
    [({"instrument": ["harp"]}, ["harp"]), ({"instrument": "harp"}, ["harp"]), (["rock"], None), ("rock", None)],
)
def test_instruments_are_read_of_tags_by_category_and_other_tags_do_no_harm(
    tags: Any, instruments: list[str] | None
) -> None:
    track = Track(Path("a.wav"), "a.wav", ("a tune",), {"tags": tags})
    assert requested_instruments(prompt_of(track)) == instruments


@pytest.mark.parametrize(
    ("text", "key", "tempo"),
    [
        ("A minor key throughout", None, None),
        ("Loud. A major hit at 90 bpm", None, 90),
        ("A minor, 1200 bpm", 21, None),
        ("a waltz in A minor at 1,200 bpm", 21, None),
        ("A-minor tune, soft,90 bpm", 21, 90),
        ("A flat minor tune of 98.5 bpm", 20, 98.5),
        ("A minor key. Then a part in C minor", 12, None),
    ],
)
def test_a_text_asks_for_a_key_and_a_tempo_only_where_it_names_one(
    text: str, key: int | None, tempo: float | None
) -> None:
    assert (requested_key({"text": text}), requested_tempo({"text": text})) == (key, tempo)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "fma.csv",
            "track_id,title\n2,Food\n",
            "has no column of captions (text, caption, captions); it has: track_id",
        ),
        ("list.wav", "x", "is not a list of prompts by its name"),
        ("empty.txt", "\n \n", "holds no prompt"),
    ],
)
def test_what_is_no_list_of_prompts_is_refused(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=re.escape(said)):
        read_prompts(tmp_path / name, lambda fault: None)


def test_few_prompts_are_among_many_whatever_their_order() -> None:
    prompts = [EvalPrompt(i, {"text": f"tune {i}"}) for i in range(20)]
    few, many = sample_prompts(prompts, 5, 0), sample_prompts(prompts, 12, 0)
    assert {p.hash for p in few} < {p.hash for p in many}
    turned = [EvalPrompt(i, prompt.fields) for i, prompt in enumerate(reversed(prompts))]
    assert {p.hash: p.seed(0) for p in sample_prompts(turned, 5, 0)} == {p.hash: p.seed(0) for p in few}
    assert {p.hash for p in sample_prompts(prompts, 5, 1)} != {p.hash for p in few}
    with pytest.raises(ValueError, match="there are 20"):
        sample_prompts(prompts, 21, 0)


# Clips, and who hears them.


def test_recordings_are_cut_into_whole_clips(tmp_path: Path) -> None:
    for name, seconds in (("long.wav", 2.6), ("cut.wav", 0.995), ("short.wav", 0.9)):
        soundfile.write(tmp_path / name, tone(seconds, 300), RATE)
    cutting, tracks = ClipCutter(1.0), {track.name: track for track in find_tracks(tmp_path)}
    clips = {clip_name("long.wav", start): clip for start, clip in cutting.clips(tracks["long.wav"], RATE)}
    assert list(clips) == ["long.wav", "long.wav#t=1.000"]
    whole = read_audio(tmp_path / "long.wav", RATE, 1)[0]
    assert torch.equal(torch.cat(list(clips.values())), whole[: 2 * RATE])
    ((_, padded),) = cutting.clips(tracks["cut.wav"], RATE)
    assert len(padded) == RATE
    with pytest.raises(BadAudio, match=r"lasts 0\.90 s: no clip of 1 s fits"):
        list(cutting.clips(tracks["short.wav"], RATE))
    assert [(track_of(name), start_of(name)) for name in clips] == [("long.wav", 0.0), ("long.wav", 1.0)]


def test_clips_are_brought_to_one_loudness_without_clipping(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", 0.01 * np.sin(np.arange(RATE) / 5), RATE)
    ((_, clip),) = ClipCutter(1.0, loudness=-20).clips(find_tracks(tmp_path)[0], RATE)
    assert float(clip.square().mean().sqrt()) == pytest.approx(0.1, rel=1e-3)
    ((_, clip),) = ClipCutter(1.0, loudness=0).clips(find_tracks(tmp_path)[0], RATE)
    assert float(clip.abs().max()) == pytest.approx(1)


def logmel(cache: Path) -> ClipEmbedder:
    return ClipEmbedder.of(LogMel(sample_rate=RATE), ClipCutter(1.0), cache)


def test_clips_are_embedded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_music(tmp_path / "music", 5, 2.1)
    (tmp_path / "music" / "zz.wav").write_text("no audio")
    tracks = find_tracks(tmp_path / "music")
    monkeypatch.setattr("codecdiff.data.embedding_cache.GROUP_SIZE", 2)
    clip_embedder = logmel(tmp_path / "cache")
    embed, batches = clip_embedder.embedder.embed, []

    def killed(audio: torch.Tensor) -> torch.Tensor:
        if len(batches) == 2:
            raise KeyboardInterrupt
        batches.append(audio)
        return embed(audio)

    monkeypatch.setattr(clip_embedder.embedder, "embed", killed)
    with pytest.raises(KeyboardInterrupt):
        clip_embedder.embed(tracks)
    monkeypatch.setattr(clip_embedder.embedder, "embed", lambda audio: batches.append(audio) or embed(audio))
    clips, skipped = clip_embedder.embed(tracks)
    assert len(clips) == 10  # two of each
    assert len(batches) == 3  # of each two or one tracks, all clips in one batch
    assert [prompt_fields(prompt)["text"] for prompt in clips.prompts][:3] == ["tone 0", "tone 0", "tone 1"]
    assert len(skipped) == 1
    assert "zz.wav" in skipped[0]
    again, skipped_again = clip_embedder.embed(tracks)
    assert len(batches) == 3
    assert skipped_again == skipped
    assert torch.equal(again.vectors, clips.vectors)
    assert again.identity == clips.identity
    soundfile.write(tmp_path / "music" / "0.wav", tone(2.1, 999), RATE)
    assert clip_embedder.embed(tracks)[0].identity != clips.identity


def test_no_track_is_in_both_halves() -> None:
    embedding = EmbeddingConfig({"name": "logmel"}, "", RATE, 1.0, 1.0, 0.5)
    names = [f"{i}.wav" + ("" if not k else f"#t={k}.000") for i in range(5) for k in range(i + 1)]
    hashes, vectors = [f"{i:032x}" for i in range(len(names))], torch.randn(len(names), 3)
    reference = ClipEmbeddings(embedding, names, hashes, vectors, torch.ones(len(names), dtype=torch.long))
    one, other = reference.halves(0)
    sides = [{track_of(name) for name in half.names} for half in (one, other)]
    assert not sides[0] & sides[1]
    assert sorted([*one.names, *other.names]) == sorted(names)
    with pytest.raises(ValueError, match="Halves of 3 tracks"):
        reference.select(range(6)).halves(0)


# What a model makes.


def test_a_clip_is_the_same_whatever_is_asked_beside_it(model: Path, tmp_path: Path) -> None:
    pipeline = Pipeline.from_pretrained(model)
    prompts = [
        EvalPrompt(i, {"text": text, "licence": "CC0"}) for i, text in enumerate(("drums", "a flute", "strings"))
    ]
    generator = Generator(pipeline, seed=4)
    alone = generator.write(generator.generated(prompts[1:2], 0.2), tmp_path / "one")
    all_of_them = generator.write(generator.generated(prompts, 0.2), tmp_path / "all")
    samples = [soundfile.read(track.file, dtype="float32")[0] for track in (*alone, *all_of_them)]
    assert alone[0].name == all_of_them[1].name
    assert np.array_equal(samples[0], samples[2])
    assert not np.array_equal(samples[0], samples[1])
    assert len(samples[0]) == RATE // 5
    told = GenerationRequest.from_file(alone[0].file)
    assert told.prompt == {"text": "a flute"}
    again = torch.cat(list(pipeline.generate_request(told))).numpy()
    assert np.abs(again[0] - samples[0]).max() < 2e-4  # of 16 bits
    assert [prompt_of(track) for track in find_tracks(tmp_path / "all")] == [prompt_of(track) for track in all_of_them]


def test_clips_that_are_there_are_kept_and_others_never_written_over(model: Path, tmp_path: Path) -> None:
    pipeline, folder = Pipeline.from_pretrained(model), tmp_path / "clips"
    prompts = [EvalPrompt(i, {"text": text}) for i, text in enumerate(("drums", "a flute"))]
    prompts[1] = EvalPrompt(1, {"text": "a flute\u2028slow"})
    generator = Generator(pipeline)
    first = generator.write(generator.generated(prompts[:1], 0.1), folder)[0].file
    before = first.stat().st_mtime_ns
    generator.write(generator.generated(prompts, 0.1), folder)
    assert first.stat().st_mtime_ns == before
    assert len(find_tracks(folder)) == 2
    generator.write(generator.generated(prompts, 0.1), folder)  # captions of any characters are read again
    for other, seconds in (generator, 0.2), (Generator(pipeline, seed=1), 0.1), (Generator(pipeline, steps=2), 0.1):
        with pytest.raises(
            FileExistsError,
            match=r"is not the requested clip: it has another (audio_length_in_s|seed|num_inf\w+)\. .* -o",
        ):
            other.write(other.generated(prompts, seconds), folder)
    soundfile.write(first, tone(0.1, 300), RATE)  # somebody's own
    with pytest.raises(FileExistsError, match="it has another origin"):
        generator.write(generator.generated(prompts, 0.1), folder)


def test_every_clip_has_a_time_wherever_its_writing_was_stopped(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, folder = Generator(Pipeline.from_pretrained(model)), tmp_path / "clips"
    clips = generator.generated([EvalPrompt(i, {"text": text}) for i, text in enumerate(("drums", "a flute"))], 0.1)

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(generation, "write_audio", stopped)  # after the time of the first clip
    with contextlib.suppress(KeyboardInterrupt):
        generator.write(clips, folder)
    monkeypatch.undo()
    (folder / generation.TIMES).open("a").write("\n9.9")  # half of a line
    generator.write(clips, folder)
    text = (folder / generation.TIMES).read_text()
    assert {clip.name for clip in clips} == set(re.findall(r"\S+\.flac", text))
    (folder / generation.TIMES).write_text(f"\n1.5 {clips[0].name}\n9.9\n7.5 {clips[1].name}\n3.5 {clips[0].name}")
    assert generation.median_seconds(folder) == 5.5


def test_a_worker_with_another_model_writes_nothing(model: Path, make_pipeline: Make, tmp_path: Path) -> None:
    make_pipeline("parallel").save_pretrained(tmp_path / "other")
    other = Pipeline.from_pretrained(tmp_path / "other")
    workers = lambda tasks: enumerate(task(other) for task in tasks)  # noqa: E731
    generator = Generator(Pipeline.from_pretrained(model), workers=workers)
    with pytest.raises(ValueError, match="It was generated by the model"):
        generator.write(generator.generated([EvalPrompt(0, {"text": "drums"})], 0.2), tmp_path / "clips")
    assert not list((tmp_path / "clips").glob("*.flac"))


def test_the_codec_reconstruction_and_the_oracle_first_stage_are_made_of_the_reference(
    model: Path, music: Path, tmp_path: Path
) -> None:
    pipeline = Pipeline.from_pretrained(model)
    tracks = {track.name: track for track in find_tracks(music)}
    sources = cut_sources(tracks, [("3.wav", 0.2)], 1.0, pipeline.codec, tmp_path / "sources")
    source = read_audio(sources[0].file, RATE, 1)
    whole = read_audio(music / "3.wav", RATE, 1)
    assert torch.allclose(source, whole[:, RATE // 5 :][:, :RATE], atol=1e-4)
    codes = pipeline.codec.encode(source[None])
    generator = Generator(pipeline)
    (reconstruction,) = generator.write(generator.codec_reconstruction(sources), tmp_path / "codec")
    expected = pipeline.codec.decode(codes)[0, :, :RATE].clamp(-1, 1)
    assert torch.allclose(read_audio(reconstruction.file, RATE, 1), expected, atol=1e-4)
    (clip,) = generator.oracle_first_stage(sources)
    assert clip.request.edit is not None
    assert clip.request.edit.model_dump()["keep"] == (0,)
    assert clip.request.prompt == {"text": "tone 3"}
    assert clip.source is not None
    known, _ = clip.request.edit.apply_to_audio(clip.source, pipeline.codec, pipeline.target)
    made = next(iter(pipeline.generate_codes([{"text": "tone 3"}], known.frames, edit=known)))
    assert torch.equal(made[:, 0], codes[:, 0])
    assert not torch.equal(made[:, 1:], codes[:, 1:])
    several = cut_sources(tracks, [("3.wav", 0.2), ("3.wav", 0.1)], 1.0, pipeline.codec, tmp_path / "sources")
    assert several[0] == sources[0]
    assert (
        len({each.request.generation.seed for each in generator.oracle_first_stage(several)}) == 2
    )  # though their caption is one
    tracks["copy.wav"] = Track(tracks["3.wav"].file, "copy.wav")
    copies = cut_sources(tracks, [("3.wav", 0.2), ("copy.wav", 0.2)], 1.0, pipeline.codec, tmp_path / "sources")
    assert len({copy.name for copy in copies}) == 2


def test_a_model_of_one_stage_has_no_later_ones(make_pipeline: Make) -> None:
    with pytest.raises(ValueError, match="one stage"):
        Generator(make_pipeline("parallel")).oracle_first_stage([])


def test_only_what_a_model_reads_is_requested_of_it(make_pipeline: Make) -> None:
    prompt = EvalPrompt(0, {"text": "a harp, 90 BPM, in F# minor", "bpm": 91, "key": "C", "instruments": ["harp"]})
    (clip,) = Generator(make_pipeline()).generated([prompt], 0.1)
    assert "bpm" not in clip.prompt  # it reads no such field
    assert clip.prompt["instruments"] == ["harp"]  # the text names it
    assert requested_tempo(clip.prompt) == 90
    assert requested_key(clip.prompt) == 18
    assert requested_key({"text": "a major hit in the key of life"}) is None
    assert requested_tempo(prompt.fields) == 91
    (clip,) = Generator(make_pipeline()).generated([EvalPrompt(0, {"text": "a tune", "instruments": ["harp"]})], 0.1)
    assert "instruments" not in clip.prompt


def click_track(folder: Path, bpm: int) -> None:
    """Write 8 s of clicks, and the tempo they are in."""
    clicks = np.zeros(8 * 22_050, np.float32)
    for start in np.arange(0, 8, 60 / bpm):
        at = round(start * 22_050)
        clicks[at : at + 200] = np.hanning(400)[200:][: len(clicks) - at]
    soundfile.write(folder / f"{bpm}.wav", clicks, 22_050)
    with (folder / "metadata.jsonl").open("a") as file:
        file.write(json.dumps({"file_name": f"{bpm}.wav", "text": "clicks", "bpm": bpm}) + "\n")


@pytest.mark.slow
def test_tempos_are_read_once_and_compared_with_those_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("librosa")
    (tmp_path / "music").mkdir()
    for bpm in (90, 110, 120, 130):
        click_track(tmp_path / "music", bpm)
    tracks = find_tracks(tmp_path / "music")
    estimator = tempo_estimator()
    embedder = ClipEmbedder.of(estimator, ClipCutter(8.0), tmp_path / "cache")
    clips, _ = embedder.embed(tracks)
    result = tempo(clips, clips)
    assert result.value == 1
    assert result.upper_bound is not None
    assert result.upper_bound.value == 1
    assert result.chance is not None
    assert result.chance.value < 0.6
    assert result.config.embedding.loudness == "unchanged"
    monkeypatch.setattr(ClipEstimator, "estimate", None)  # what was estimated is kept
    assert tempo(embedder.embed(tracks)[0]).value == 1
    wrong = [Track(track.file, track.name, (), {"bpm": 75}) for track in tracks]
    assert tempo(embedder.embed(wrong)[0]).value == 0


@pytest.mark.slow
def test_adherence_is_measured_at_the_loudness_of_the_files(tmp_path: Path) -> None:
    pytest.importorskip("librosa")
    (tmp_path / "music").mkdir()
    for bpm in (90, 110, 120, 130):
        click_track(tmp_path / "music", bpm)
    options = ("--reference", tmp_path / "music", "--seconds", 8, "--loudness", -20, "--adherence", *FAST)
    evaluate(tmp_path / "music", *options, "-o", tmp_path / "report")
    results = {row.result.name: row.result for row in EvalReport.read(tmp_path / "report").rows}
    assert results["tempo within 4 %"].value == 1
    assert results["tempo within 4 %"].config.embedding.loudness == "unchanged"
    assert results["FAD-per-track"].config.embedding.loudness != "unchanged"
    assert "key and mode" not in results  # which nothing requests


# Sets of codes.


def test_every_set_of_an_evaluation_comes_from_one_call(make_pipeline: Make) -> None:
    pipeline = make_pipeline()
    audio = 0.3 * noise(2, 1, RATE // 5)
    source = edit_mask_of(pipeline, audio)
    assert torch.equal(source.codes, encode_clips(pipeline.codec, audio))
    sets = generate_sets(pipeline, ["drums", "a flute"], source, seed=3)
    assert list(sets) == [CODEC_RECONSTRUCTION, NOISE, GENERATED, oracle()]
    assert sets.map(lambda name, codes: tuple(codes.shape)) == dict.fromkeys(sets, tuple(source.codes.shape))
    generated = torch.cat(list(pipeline.generate_codes(["drums", "a flute"], source.frames, seed=3)))
    mask = first_stages_mask(pipeline.splitter, pipeline.codec, source.frames, 1)
    codes = {name: some for name, some in sets.items() if not isinstance(some, NotMeasured)}
    assert torch.equal(codes[GENERATED], generated)
    kept = mask.expand(source.codes.shape)
    assert torch.equal(codes[oracle()][kept], source.codes[kept])
    assert not torch.equal(codes[oracle()], source.codes)
    assert torch.equal(codes[NOISE], noise_codes(pipeline, 3, source.frames, seed=3)[:2])
    assert len(codes[NOISE].unique()) > 32
    assert (oracle(), oracle(2)) == ("oracle first stage", "oracle first 2 stages")
    missing = EvalSets({GENERATED: 1, NOISE: NotMeasured("no noise")})
    assert missing.map(lambda name, value: value + 1) == {GENERATED: 2, NOISE: NotMeasured("no noise")}


def test_warnings_of_many_clips_are_shown_once() -> None:
    lines = [*(f"{percent}% of the samples are clipped." for percent in (1.5, 20, 0.25)), "The audio is silent."]
    with warnings.catch_warnings(record=True) as shown, counted_warnings():
        for line in lines:
            warnings.warn(line, stacklevel=1)
    assert [str(each.message) for each in shown] == [
        "1.5% of the samples are clipped. Similar in 2 more.",
        "The audio is silent.",
    ]


def test_metrics_and_suites_are_found_by_entry_point() -> None:
    assert load_metric("fad").label == "FAD"
    assert load_metric("tempo").compares == "prompts"
    assert [name for name in registry.entries("metrics") if not load_metric(name).meaning] == []
    assert load_suite("smoke").select() == {"logmel": ("fad", "fad-shrunk", "kad", "density", "coverage")}
    assert load_suite("paper").select(["mert"], ["kad"]) == {"mert": ("kad",)}
    assert load_suite("paper").select(["mert"]) == {"mert": ("fad", "kad", "density", "coverage")}


# The command.


@pytest.mark.integration
def test_a_model_is_judged_and_its_folder_gets_the_same_scores(
    model: Path, music: Path, texts: Path, tmp_path: Path
) -> None:
    asked = ("--model", model, "--prompts", texts, "--n", 3, "--reference", music, "--seconds", 1, *FAST)
    shown = evaluate(*asked, "-o", tmp_path / "report")
    report, primary = EvalReport.read(tmp_path / "report"), Pipeline.from_pretrained(model).stages[0]
    assert [row.result.name for row in report.rows] == ["FAD-per-track", "density"]
    assert not [each for _, each in report.rows[0].context.items() if isinstance(each, NotMeasured)]
    for row in report.rows:
        interval = row.result.interval
        assert format_number(row.result.value, interval_width(interval.low, interval.high)) in shown
        assert row.result.config.embedding.clip_seconds == 1
        assert row.result.config.embedding.loudness == "unchanged"
        assert row.result.config.seeds == {"interval": 0, "generation": 0}
        assert row.result.config.sampling["primary"] == {
            "steps": primary.sampling.num_inference_steps,
            "guidance": primary.sampling.guidance_scale,
        }
        later = row.context["oracle first stage"]
        assert not isinstance(later, NotMeasured)
        assert later.config.sampling == row.result.config.sampling
    assert report.facts["prompts"] == report.rows[0].result.config.prompts
    index = (tmp_path / "report" / "model-index.yaml").read_text()
    assert report.facts["prompts"] in index
    assert str(tmp_path) not in index + (tmp_path / "report" / "report.json").read_text()
    before = (tmp_path / "report" / "report.json").read_bytes()
    evaluate(*asked, "-o", tmp_path / "report")
    assert (tmp_path / "report" / "report.json").read_bytes() == before
    clips = tmp_path / "report" / "clips" / "generated"
    (system,), _ = read_systems([tmp_path / "report"])
    assert [track.file.parent for track in system.clips] == 3 * [clips]
    assert {track.captions[0] for track in system.clips} <= set(texts.read_text().split("\n"))
    evaluate(clips, "--reference", music, "--seconds", 1, *FAST, "-o", tmp_path / "again")
    again = EvalReport.read(tmp_path / "again")
    assert [row.result.value for row in again.rows] == [row.result.value for row in report.rows]
    for one, other in zip(again.rows, report.rows, strict=True):
        one.result.require_comparable(other.result)
    assert "No model was named" in (tmp_path / "again" / "report.md").read_text()
    page = write_report(Report("mine", [], kicker="codecdiff · training run"), tmp_path / "run")
    before = page.read_bytes()
    into = (clips, "--reference", music, "--seconds", 1, *FAST, "-o", tmp_path / "run")
    assert f"'{page}' is a page of 'training run' that 'evaluate' would replace. Choose another" in refused(*into)
    assert page.read_bytes() == before
    assert not (tmp_path / "run" / "cache").exists()
    evaluate(*into, "--force")
    evaluate(*into)
    page.write_text("<p>A page by hand.</p>")
    assert f"'{page}' is a page that 'evaluate' would replace." in refused(*into)
    page.unlink()
    (tmp_path / "run" / "model").mkdir()
    (tmp_path / "run" / "model" / "codecdiff.json").write_text("{}")  # training, without a page until it ends
    assert "is a page of 'training run'" in refused(*into)


def test_the_report_is_printed_as_json_and_has_the_rows_and_columns_of_table_1(
    model: Path, music: Path, texts: Path, tmp_path: Path
) -> None:
    options = ("--model", model, "--prompts", texts, "--n", 2, "--reference", music, "--seconds", 1, *FAST)
    options = (*options, "--metric", "fad")
    result = CliRunner().invoke(app, ["evaluate", *map(str, options), "-o", str(tmp_path / "report"), "--json"])
    assert json.loads(result.stdout) == json.loads((tmp_path / "report" / "report.json").read_text())
    assert {row["result"]["name"] for row in json.loads(result.stdout)["rows"]} == {"FAD-per-track", "density", "FAD"}
    table = table_one(EvalReport.read(tmp_path / "report"))
    assert tuple(table.columns) == ("clips", "FAD ↓, logmel", "Inference (s)", "Duration (s)", "SR (Hz)")
    assert [row[0] for row in table.rows] == ["codec reconstruction", "oracle first stage", "generated"]
    rate = Pipeline.from_pretrained(model).sample_rate
    for row in table.rows:
        assert all(float(str(cell).replace("−", "-")) >= 0 for cell in row[1:3])
        assert row[3:] == ("1", str(rate))
    markdown = (tmp_path / "report" / "report.md").read_text()
    assert "| clips | FAD ↓, logmel | Inference (s) |" in markdown


def test_a_report_without_a_name_is_named_after_what_is_evaluated(
    music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = evaluate(music, "--reference", music, "--seconds", 1, "--metric", "fad")
    assert f"runs/report-{music.name}" in said
    assert (tmp_path / "runs" / f"report-{music.name}" / "index.html").is_file()


def test_music_is_at_no_distance_from_itself(music: Path, tmp_path: Path) -> None:
    evaluate(music, "--reference", music, "--seconds", 1, "--metric", "fad", "-o", tmp_path / "report")
    (row,) = EvalReport.read(tmp_path / "report").rows
    assert row.result.value == pytest.approx(0, abs=1e-6)
    assert row.result.interval.low <= 0 <= row.result.interval.high
    assert any("are in the reference too" in warning for warning in row.result.warnings)
    assert isinstance(row.context["codec reconstruction"], NotMeasured)


def test_statistics_stand_in_for_a_reference_that_was_heard_alike(music: Path, tmp_path: Path) -> None:
    evaluated = write_music(tmp_path / "evaluated", 4, 1.3)
    evaluate(evaluated, "--reference", music, "--seconds", 1, "--metric", "fad-per-track", "-o", tmp_path / "a")
    (statistics,) = (tmp_path / "a" / "cache").glob("reference-logmel-*.safetensors")
    said = evaluate(
        evaluated,
        "--reference",
        statistics,
        "--seconds",
        1,
        "--metric",
        "fad-per-track",
        "--metric",
        "kad",
        "-o",
        tmp_path / "b",
    )
    assert "only its statistics are available" in " ".join(said.split())
    (a,), (b,) = EvalReport.read(tmp_path / "a").rows, EvalReport.read(tmp_path / "b").rows
    assert b.result.value == pytest.approx(a.result.value, rel=1e-9)
    said = refused(evaluated, "--reference", statistics, "--seconds", 0.5, "-o", tmp_path / "c")
    assert "clip_seconds: 0.5 and 1.0" in said
    evaluate(
        evaluated,
        "--reference",
        music,
        "--seconds",
        1,
        "--loudness",
        -30,
        "--metric",
        "fad-per-track",
        "-o",
        tmp_path / "d",
    )
    with pytest.raises(IncomparableError, match="loudness"):
        assert EvalReport.read(tmp_path / "d").rows[0].result < a.result


def test_judges_that_are_not_there_are_told_in_a_suite_and_refused_by_name(
    music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    options = ("--reference", music, "--seconds", 1, "--metric", "density", "-o", tmp_path / "report")
    evaluate(music, "--suite", "panel", *options)
    told = EvalReport.read(tmp_path / "report").facts["not measured"]
    for name in ("codec", "clap-music", "vggish", "mert"):
        assert f"{name} is left out" in told
    assert "--allow-download" in told
    assert "No embedder is available" in refused(music, "--suite", "paper", *options)
    assert "sample_rate" in refused(music, "--embedder", "logmel", "--set", "logmel.sample_rate=x", *options)
    assert "No embedder named 'clip'" in refused(music, "--embedder", "clip", *options)
    assert "No CLAP model" in refused(
        music, "--embedder", "clap-music", "--set", f"clap-music.model={tmp_path}", *options
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--suite", "none"), "No suite named 'none'. Installed: panel, paper, smoke"),
        (("--metric", "fid"), "No metric named 'fid'"),
        (("--prompts", "x.txt"), "Specify what to evaluate"),
        (("--model-card",), "--model-card needs --model with a model folder"),
        (("--set", "weights=x"), "sets no option"),
        (("--set", "mert.layer=3"), "--set names 'mert', which is not an embedder"),
        (("--n", "3"), "--n is the number of prompts to generate from: it needs --model and --prompts."),
        (("--steps", "3"), "--adapter, --guidance-scale and --num-inference-steps need --model."),
        (("--metric", "tempo", "--no-adherence"), "No metric can be measured. tempo is left out: --no-adherence."),
        (("--seconds", "0.01"), "0.1 to 3600 seconds"),
        (("--reference", "nowhere"), "'nowhere' does not exist: expected a folder of audio files"),
        (("--seconds", "100"), "no clip of 100 s fits"),
    ],
)
def test_what_cannot_be_judged_is_refused(music: Path, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    assert said in refused(music, "--reference", music, "-o", tmp_path / "report", *arguments)
    assert not (tmp_path / "report" / "report.json").exists()


@pytest.mark.parametrize("folder", ["runs/mine", "runs/mine/model"])
def test_a_trained_model_is_not_the_music_to_evaluate(
    folder: str, music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/mine/model").mkdir(parents=True)
    Path("runs/mine/model/codecdiff.json").write_text("{}")
    assert f"'{folder}' is a trained model: use --model {folder}, with --prompts" in refused(
        folder, "--reference", music
    )


def test_captions_are_compared_by_a_judge_that_reads_text(music: Path, tmp_path: Path) -> None:
    pytest.importorskip("codecdiff_clap")
    weights = write_tiny("clap", tmp_path / "clap")
    options = ("--embedder", "clap-music", "--set", f"clap-music.model={weights}", "--metric", "clap-score")
    evaluate(music, "--reference", music, "--seconds", 1, *options, "-o", tmp_path / "report")
    (row,) = EvalReport.read(tmp_path / "report").rows
    assert row.result.name == "CLAP score"
    assert row.result.chance is not None
    assert str(tmp_path) not in (tmp_path / "report" / "report.json").read_text()


def test_a_judge_of_captions_needs_no_statistics_of_its_own(music: Path, tmp_path: Path) -> None:
    pytest.importorskip("codecdiff_clap")
    weights = write_tiny("clap", tmp_path / "clap")
    evaluate(music, "--reference", music, "--seconds", 1, "--metric", "fad-per-track", "-o", tmp_path / "a")
    (statistics,) = (tmp_path / "a" / "cache").glob("reference-logmel-*.safetensors")
    options = ("--embedder", "clap-music", "--set", f"clap-music.model={weights}")
    scores = ("--metric", "fad", "--metric", "clap-score")
    output = ("--seconds", 1, "-o", tmp_path / "b")
    said = " ".join(evaluate(music, "--reference", statistics, *options, *scores, *output).split())
    report = EvalReport.read(tmp_path / "b")
    assert [row.result.name for row in report.rows] == ["CLAP score"]
    assert "clap-music is left out, except for clap-score" in said
    assert report.facts["weights of clap-music"].startswith("model=clap")


def test_the_split_reaches_manifests_of_music_and_is_told(music: Path, tmp_path: Path) -> None:
    splits = ["test", "train", "train", "test"]
    rows = [ManifestRow(f"{i}", file=f"{i}.wav", present=True, split=split) for i, split in enumerate(splits)]
    Manifest(music, rows, {"source": "musiccaps"}).write(tmp_path / "caps.parquet")
    asked = ("--reference", tmp_path / "caps.parquet", "--seconds", 1, "--metric", "fad-per-track")
    for told, split, count in ((), "test", 2), (("--split", "train"), "train", 2), (("--split", "all"), "all", 4):
        evaluate(music, *asked, *told, "-o", tmp_path / split)
        facts = EvalReport.read(tmp_path / split).facts
        assert (facts["reference split"], facts["reference tracks"]) == (split, count)
        assert "evaluated split" not in facts
    assert "There are: test, train" in refused(music, *asked, "--split", "x", "-o", tmp_path / "none")


def test_scores_go_into_the_header_of_a_card(model: Path, tmp_path: Path) -> None:
    write_model_card(model)
    words = (model / "README.md").read_text().split("---\n", 2)[2]
    add_model_index(model, {"model-index": [{"name": "m"}]})
    add_model_index(model, {"model-index": [{"name": "n"}]})
    card = (model / "README.md").read_text()
    assert card.count("model-index") == 1
    assert "name: n" in card
    assert "library_name: codecdiff" in card
    assert card.split("---\n", 2)[2] == words
    (model / "README.md").write_text("My words.")
    with pytest.raises(ValueError, match="does not begin with a YAML header"):
        add_model_index(model, {})
    assert (model / "README.md").read_text() == "My words."


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on(model: Path, music: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(f"tune {i}" for i in range(16)))
    output = tmp_path / "report"
    words = ["--model", model, "--prompts", tmp_path / "prompts.txt", "--reference", music, "--seconds", "1", *FAST]
    command = [str(Path(sys.executable).with_name("codecdiff")), "evaluate", *map(str, words), "-o", str(output)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    clips = output / "clips" / "generated"
    deadline = time.monotonic() + 120
    while len(list(clips.glob("[0-9]*.flac"))) < 3 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    made = {file: file.stat().st_mtime_ns for file in clips.glob("[0-9]*.flac")}
    assert 3 <= len(made) < 16
    for file in made:
        soundfile.read(file)  # none is cut
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert {file: file.stat().st_mtime_ns for file in made} == made
    assert len(list(clips.glob("[0-9]*.flac"))) == 16
    whole = tmp_path / "whole"
    assert subprocess.run([*command[:-1], str(whole)], capture_output=True).returncode == 0
    both = [json.loads((folder / "report.json").read_text()) for folder in (output, whole)]
    for each in both:
        assert each["facts"].pop("inference seconds")["generated"] > 0  # which differ from run to run
    assert both[0] == both[1]
