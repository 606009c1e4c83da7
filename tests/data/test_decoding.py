"""Picture files as people have them: the right pixels, or one line that names the file."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ldm.core.decoding import read_picture

RAMP = np.arange(12 * 16, dtype=np.uint8).reshape(12, 16)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def deep_png(channels: int) -> bytes:
    """A 16-bit PNG of RAMP in the high bytes."""
    kind = {1: 0, 3: 2, 4: 6}[channels]
    pixels = np.repeat((RAMP.astype(">u2") << 8 | 0x7F)[..., None], channels, axis=2).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", 16, 12, 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_keep_their_high_bytes(tmp_path, channels):
    (tmp_path / "a.png").write_bytes(deep_png(channels))
    pixels = np.asarray(read_picture(tmp_path / "a.png"))
    assert pixels.shape == (12, 16, 4 if channels == 4 else 3) and (pixels == RAMP[..., None]).all()


def test_sixteen_bits_with_a_value_that_is_seen_through(tmp_path):
    head, rest = deep_png(1)[:33], deep_png(1)[33:]  # the header, and what follows it
    (tmp_path / "a.png").write_bytes(head + chunk(b"tRNS", struct.pack(">H", int(RAMP[0, 5]) << 8 | 0x7F)) + rest)
    pixels = np.asarray(read_picture(tmp_path / "a.png"))
    assert pixels.shape == (12, 16, 4) and (pixels[..., :3] == RAMP[..., None]).all()
    assert pixels[0, 5, 3] == 0 and (pixels[..., 3] == 0).sum() == 1


def test_numbers_without_a_fixed_range_are_refused(tmp_path):
    for kind in (np.int32, np.float32):
        Image.fromarray(np.full((4, 4), 200, kind)).save(tmp_path / "a.tif")
        with pytest.raises(ValueError, match=r"a.tif: the picture cannot be read: .* no fixed range"):
            read_picture(tmp_path / "a.tif")


@pytest.mark.parametrize("kind", ["avif", "tiff", "webp", "png", "jpeg", "gif"])
def test_damage_at_any_place_is_one_line(tmp_path, kind):
    made, rng = io.BytesIO(), np.random.default_rng(0)
    Image.fromarray(RAMP).convert("RGB").resize((64, 64)).save(made, kind)
    whole, path = made.getvalue(), tmp_path / f"a.{kind}"
    for _ in range(200):
        damaged = bytearray(whole)
        for place in rng.integers(0, min(len(whole), 400), 8):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_picture(path)
        except ValueError as error:
            assert str(path) in str(error)


def test_cmyk_is_what_it_prints(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    red, green, blue = np.asarray(read_picture(tmp_path / "a.jpg"))[4, 4]
    assert red > 240 and green < 15 and blue < 15


def test_a_palette_with_a_transparent_entry_has_alpha(tmp_path):
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.paste(1, (0, 0, 4, 8))
    palette.save(tmp_path / "a.png", transparency=0)
    pixels = np.asarray(read_picture(tmp_path / "a.png"))
    assert pixels[0, 0].tolist() == [0, 0, 255, 255] and pixels[0, 7, 3] == 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_turn_of_a_camera_is_undone(tmp_path, orientation):
    turns = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: np.swapaxes(a, 0, 1),
        6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2), 8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    exif = Image.Exif()
    exif[274] = orientation
    stored = np.ascontiguousarray(turns[orientation](RAMP))
    Image.fromarray(stored).convert("RGB").save(tmp_path / "a.png", exif=exif)
    assert (np.asarray(read_picture(tmp_path / "a.png"))[..., 0] == RAMP).all()


def frames(path, kind, **options):
    first, *rest = [Image.new("RGB", (8, 8), (50 * i, 0, 0)) for i in range(3)]
    first.save(path, format=kind, save_all=True, append_images=rest, **options)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_are_refused(tmp_path, kind):
    frames(tmp_path / "moves", kind)
    with pytest.raises(ValueError, match=r"moves: the picture cannot be read: it has 3 frames; save the one you mean"):
        read_picture(tmp_path / "moves")


def test_a_phone_s_file_with_a_preview_is_its_photograph(tmp_path):
    frames(tmp_path / "photo.jpg", "MPO")
    assert np.asarray(read_picture(tmp_path / "photo.jpg")).max() <= 2  # the first frame is black


def whole(**options) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_a_truncated_file_is_one_line(tmp_path, kind):
    content = whole(format=kind)
    for kept in (0, 1, 9, 60, len(content) // 3, len(content) * 9 // 10):
        (tmp_path / "cut.png").write_bytes(content[:kept])
        with pytest.raises(ValueError, match=r"cut.png: the picture cannot be read: \S") as error:
            read_picture(tmp_path / "cut.png")
        assert "\n" not in str(error.value)


def test_what_is_no_picture_is_one_line(tmp_path):
    (tmp_path / "a.png").write_text("<html>not found</html>")
    for path in (tmp_path / "a.png", tmp_path, tmp_path / "nowhere.png"):
        with pytest.raises(ValueError, match="the picture cannot be read"):
            read_picture(path)


@pytest.mark.parametrize("side", [10_000, 20_000])
def test_a_huge_picture_is_read_without_a_warning_or_refused(tmp_path, side, recwarn):
    Image.new("1", (side, side)).save(tmp_path / "huge.png")
    if side == 10_000:
        assert read_picture(tmp_path / "huge.png").size == (side, side)
    else:
        with pytest.raises(ValueError, match=r"huge.png: the picture cannot be read: .*400000000 pixels"):
            read_picture(tmp_path / "huge.png")
    assert not recwarn.list
