"""Cut files are found out in every container, and whole ones are read, also those of streams that did not know their length."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
import torch

pytest.importorskip("soundfile")
pytest.importorskip("av")

import av
import soundfile

from jielong.media.audio import to_integers
from jielong.media.kinds.base import kind_of
from jielong.media.reading.faults import BUDGET, BrokenAudioError
from jielong.media.reading.sound import SUFFIXES, read_audio, read_header

RATE, COUNT = 16_000, 9_000
CLIP = (torch.rand(1, COUNT, generator=torch.Generator().manual_seed(0)) - 0.5) / 2
EXACT = to_integers(CLIP).float() / 32_768


class Pipe:
    """A file that cannot go back."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> int:
        self.data += bytes(data)
        return len(data)


def by_libsndfile(form: str, coding: str | None = None) -> bytes:
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", RATE, 1, coding, format=form) as file:
        file.write(to_integers(CLIP)[0].numpy())
    return buffer.getvalue()


def by_ffmpeg(form: str, codec: str, rate: int = RATE, options: dict[str, str] | None = None, piped: bool = False) -> bytes:
    buffer = Pipe() if piped else io.BytesIO()
    with av.open(buffer, "w", format=form, options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(to_integers(CLIP).numpy(), format="s16", layout="mono")
        frame.sample_rate = RATE
        adapt = av.AudioResampler(format=stream.codec_context.format.name, layout="mono", rate=rate)
        for each in (*adapt.resample(frame), *adapt.resample(None), None):
            for packet in stream.encode(each):
                container.mux(packet)
    return buffer.data if isinstance(buffer, Pipe) else buffer.getvalue()


BY_LIBSNDFILE = {
    **{form.lower(): (form, None) for form in ("WAV", "WAVEX", "AIFF", "AU", "W64", "RF64", "CAF", "FLAC", "MP3", "NIST")},
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "alac": ("CAF", "ALAC_16"),
    "adpcm": ("WAV", "IMA_ADPCM"),
}
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}
BY_FFMPEG: dict[str, tuple[str, str, int, dict[str, str]]] = {
    **{form: (form, codec, RATE, {}) for form, codec in (("mp4", "aac"), ("ipod", "aac"), ("adts", "aac"), ("flac", "flac"))},
    **{form: (form, codec, RATE, {}) for form, codec in (("mp3", "libmp3lame"), ("matroska", "pcm_s16le"), ("aiff", "pcm_s16be"))},
    "webm": ("webm", "libopus", 48_000, {}),
    "ogg": ("ogg", "libopus", 48_000, {}),
    "fragmented": ("mp4", "aac", RATE, FRAGMENTED),
}
PIPED: dict[str, tuple[str, str, int, dict[str, str]]] = {
    **{form: (form, "pcm_s16le", RATE, {}) for form in ("wav", "w64", "caf", "matroska")},
    **{form: (form, "pcm_s16be", RATE, {}) for form in ("aiff", "au")},
    "rf64": ("wav", "pcm_s16le", RATE, {"rf64": "always"}),
    "flac": ("flac", "flac", RATE, {}),
    "mp3": ("mp3", "libmp3lame", RATE, {}),
    "adts": ("adts", "aac", RATE, {}),
    "webm": ("webm", "libopus", 48_000, {}),
    "live": ("webm", "libopus", 48_000, {"live": "1"}),
    "fragmented": ("mp4", "aac", RATE, FRAGMENTED),
}
LOSSLESS = {"wav", "wavex", "aiff", "au", "w64", "rf64", "caf", "flac", "alac", "nist", "matroska"}


def is_whole(data: bytes, name: str) -> None:
    waveform, rate = read_audio(data, name)
    header = read_header(data, name)
    assert header.rate == rate
    assert waveform.shape[1] / rate == pytest.approx(COUNT / RATE, abs=0.1)  # lossy codecs add silence at both ends
    if name in LOSSLESS:
        assert torch.equal(waveform, EXACT)
        assert header.samples is None or abs(header.samples - COUNT) < RATE / 1_000  # Matroska counts milliseconds


def is_cut_everywhere(data: bytes, name: str) -> None:
    for kept in (*(len(data) - cut for cut in (1, 2, 3, 7, 50, 100, 301, 1_000)), *(len(data) * share // 16 for share in range(1, 16))):
        with pytest.raises(BrokenAudioError, match=f"^{name} "):
            read_audio(data[:kept], name)


@pytest.mark.parametrize("name", BY_LIBSNDFILE)
def test_whole_files_of_libsndfile_are_read_and_cut_ones_refused(name: str) -> None:
    data = by_libsndfile(*BY_LIBSNDFILE[name])
    is_whole(data, name)
    is_cut_everywhere(data[:-1] if name == "alac" else data, name)  # its last byte is padding behind the last chunk


@pytest.mark.parametrize("name", BY_FFMPEG)
def test_whole_files_of_ffmpeg_are_read_and_cut_ones_refused(name: str) -> None:
    data = by_ffmpeg(*BY_FFMPEG[name])
    is_whole(data, name)
    is_cut_everywhere(data, name)


@pytest.mark.parametrize("name", PIPED)
def test_a_stream_that_did_not_know_its_length_is_whole(name: str) -> None:
    data = by_ffmpeg(*PIPED[name], piped=True)
    is_whole(data, name)
    if name not in ("wav", "w64", "caf", "aiff", "au", "rf64"):  # nothing says where the samples of these end
        is_cut_everywhere(data, name)


@pytest.mark.parametrize("length", [0, 0x7FFF_FFFF, 0x7FFF_F000, 0x7FFF_F024, 0x7F00_0000, 0x8000_0000, 0xFFFF_FFFF, 0xFFFF_FF00])
@pytest.mark.parametrize(("form", "mark", "order"), [("WAV", b"data", "<"), ("AIFF", b"SSND", ">"), ("AU", b".snd", ">")])
def test_any_placeholder_is_a_stream(form: str, mark: bytes, order: str, length: int) -> None:
    data = bytearray(by_libsndfile(form))
    place = data.index(mark) + (8 if form == "AU" else 4)
    data[place : place + 4] = struct.pack(f"{order}I", length)
    is_whole(bytes(data), form.lower())
    if form == "WAV":
        data[4:8] = bytes(4)
        is_whole(bytes(data), "wav")


def test_no_samples_are_told_from_samples_of_unknown_length() -> None:
    form = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    empty = form + b"data" + bytes(4) + b"LIST" + struct.pack("<I", 4) + b"INFO"
    with pytest.raises(BrokenAudioError, match="no samples"):
        read_audio(b"RIFF" + struct.pack("<I", len(empty)) + empty, "a.wav")


def test_tags_and_other_chunks_behind_the_sound_leave_it_whole() -> None:
    mp3, wav = by_libsndfile("MP3"), by_libsndfile("WAV")
    is_whole(b"ID3\x04\0\0\0\0\0\x0a" + bytes(10) + mp3 + b"TAG" + bytes(125), "mp3")
    is_whole(wav + b"LIST" + struct.pack("<I", 4) + b"INFO", "wav")
    is_whole(by_ffmpeg("mp4", "aac") + struct.pack(">I", 16) + b"free" + bytes(8), "mp4")


def test_a_long_silence_stops_at_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    data = by_libsndfile("FLAC")
    says = rf"day\.flac is too large: sound of [.\d]+ s or more \(1 channel at \d+,000 Hz\) takes .*{BUDGET}="
    monkeypatch.setenv(BUDGET, str(4 * COUNT / 1e6))
    is_whole(data, "flac")
    monkeypatch.setenv(BUDGET, str(4 * (COUNT - 1) / 1e6))
    for reading in (read_audio, read_header):
        with pytest.raises(BrokenAudioError, match=says):
            reading(data, "day.flac")
    for name in ("flac", "webm"):  # streams whose header has no length: the decoder stops
        with pytest.raises(BrokenAudioError, match=says):
            read_audio(by_ffmpeg(*PIPED[name], piped=True), "day.flac")


def test_a_declared_length_is_not_believed() -> None:
    flac = bytearray(by_libsndfile("FLAC"))
    flac[21] |= 0x0F  # 36 bits of STREAMINFO count samples
    flac[22:26] = b"\xff" * 4
    with pytest.raises(BrokenAudioError, match="too large"):
        read_audio(bytes(flac), "a.flac")
    slow = struct.pack("<IHHIIHH", 16, 1, 1, 1, 2, 2, 16)  # one sample a second: an hour is 3,600 samples, and 58 million at 16 kHz
    body = b"WAVEfmt " + slow + b"data" + struct.pack("<I", 40_000) + bytes(40_000)
    kind = kind_of("audio")
    with pytest.raises(BrokenAudioError, match=r"a\.wav is too large"):
        kind.decode(b"RIFF" + struct.pack("<I", len(body)) + body, "a.wav", kind.medium(kind.settings(), 1), kind.settings())


def wave_of(coding: int, samples: bytes) -> bytes:
    body = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, coding, 1, RATE, 2 * RATE, 2, 16) + b"data" + struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", len(body)) + body


def test_vorbis_in_wav_is_read_and_an_unknown_coding_named() -> None:
    ogg = by_libsndfile("OGG", "VORBIS")
    is_whole(wave_of(0x674F, ogg), "vorbis in wav")
    with pytest.raises(BrokenAudioError, match=r"a\.wav .*no decoder knows the coding"):
        read_audio(wave_of(0x0FAB, bytes(4_000)), "a.wav")


def test_a_playlist_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.wav").write_bytes(by_libsndfile("WAV"))
    for text in (f"ffconcat version 1.0\nfile {tmp_path}/secret.wav\n", f"#EXTM3U\n#EXTINF:1,\n{tmp_path}/secret.wav\n#EXT-X-ENDLIST\n"):
        with pytest.raises(BrokenAudioError, match=r"list\.wav cannot be read as sound"):
            read_audio(text.encode(), "list.wav")


def test_every_suffix_is_of_a_format_that_is_read() -> None:
    assert {".au", ".caf", ".w64", ".rf64", ".mka", ".mkv", ".mp4", ".m4a", ".webm"} <= SUFFIXES


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("form", ["AVR", "MAT4", "MAT5", "MPC2K", "NIST", "SVX", "VOC", "WVE"])
def test_cut_files_that_libsndfile_reads_as_shorter_ones_are_found_out(form: str, channels: int) -> None:
    coding = "ALAW" if form == "WVE" else "PCM_16"
    if not soundfile.check_format(form, coding) or (form in ("SVX", "WVE") and channels > 1):
        pytest.skip(f"no {form} of {channels} channels")
    buffer = io.BytesIO()
    soundfile.write(buffer, CLIP.expand(channels, -1).T.numpy(), RATE, coding, format=form)
    whole = buffer.getvalue()
    assert read_audio(whole, "clip")[0].shape == (channels, COUNT)
    assert read_header(whole, "clip").samples == COUNT
    for read in (read_audio, read_header):
        with pytest.raises(BrokenAudioError, match="clip is cut off: "):
            read(whole[: len(whole) * 2 // 3], "clip")
