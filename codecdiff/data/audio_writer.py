"""Writing audio files."""

from __future__ import annotations

import errno
import io
from pathlib import Path

import numpy as np
import soundfile
from torch import Tensor

from codecdiff.errors import InvalidValue, UnusableFile
from codecdiff.files import atomic_write

__all__ = ["BLOCK", "keeps_comment", "write_audio"]

BLOCK = 2**16  # audio samples read or written at once
SYSTEM_ERROR = 2  # libsndfile's code of what the disk refuses


def keeps_comment(file: Path | str, comment: str) -> bool:
    """Return whether a file of this format keeps such a comment, by trying it in memory: a WAV has room for 32 kB."""
    from codecdiff.data.audio_format import wave_comment

    suffix, stream = Path(file).suffix.lower().lstrip("."), io.BytesIO()
    try:
        with soundfile.SoundFile(stream, "w", 44_100, 1, format=suffix.upper()) as sound:
            sound.comment = comment
            sound.write(np.zeros(1024, np.float32))
        stream.seek(0)
        with soundfile.SoundFile(stream) as sound:
            return (wave_comment(stream.getvalue()) or sound.comment) == comment
    except (soundfile.LibsndfileError, TypeError, ValueError):
        return False


def write_audio(file: Path | str, audio: Tensor, sample_rate: int, *, comment: str = "") -> None:
    """Write (ch, t) audio as a file of the format its suffix names, whole or not at all; with a comment, if any.

    It takes its name only after it was read again, because libsndfile does not report a full disk. Raises UserError.
    """
    file = Path(file)
    if not soundfile.check_format(file.suffix[1:]):
        raise InvalidValue(f"Cannot write '{file}': unknown audio format. Use .wav, .flac, .ogg or .mp3.")
    samples = audio.clamp(-1, 1).T.cpu().numpy()
    try:
        with atomic_write(file) as temporary:
            with soundfile.SoundFile(temporary, "w", sample_rate, samples.shape[1]) as stream:
                if comment:
                    stream.comment = comment
                if stream.subtype == "PCM_16":  # libsndfile rounds floats in FLAC, but truncates them in WAV
                    samples = np.rint(samples * 2**15).clip(-(2**15), 2**15 - 1).astype(np.int16)
                for start in range(0, len(samples), BLOCK):  # libsndfile overflows its stack on a long Vorbis write
                    stream.write(samples[start : start + BLOCK])
            with soundfile.SoundFile(temporary) as stream:
                written = sum(len(block) for block in stream.blocks(BLOCK, dtype="float32"))
            if written != len(samples):
                raise OSError(errno.ENOSPC, f"only {written:,} of {len(samples):,} samples are on the disk")
    except (soundfile.LibsndfileError, UnicodeEncodeError) as error:
        hint = " Free space or use another disk." if getattr(error, "code", 0) == SYSTEM_ERROR else ""
        raise UnusableFile(f"'{file}' cannot be written: {error}{hint}") from error
