"""Pixels of every mode: scaled to 8 bits where the file defines their range, refused where it does not."""

import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from training.data.pixels import ENDINGS, FORMATS, UndefinedRangeError, read_rgb

RAMP = np.linspace(0, 1, 25 * 20).reshape(20, 25)
"""Every image here has these values, from black to white."""


def grey(bits: int) -> "np.ndarray[Any, Any]":
    """The ramp in unsigned integers of ``bits``."""
    return np.round(RAMP * (2**bits - 1)).astype(np.uint8 if bits <= 8 else np.uint16)


def tiff(values: "np.ndarray[Any, Any]", *, bits: int, photometric: int = 1, big: bool = False) -> bytes:
    """A TIFF file of one uncompressed strip, for variants that Pillow does not write."""
    order = ">" if big else "<"
    pixels = values.astype(values.dtype.newbyteorder(order)).tobytes()
    tags = [
        (256, values.shape[1]), (257, values.shape[0]), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1),
        (278, values.shape[0]), (279, len(pixels)),
    ]  # fmt: skip
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags)
    head = (b"MM" if big else b"II") + struct.pack(f"{order}HI", 42, 8 + len(pixels))
    return head + pixels + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def packed(values: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Rows of bytes for values of 12 bits, two in three bytes."""
    first, second = values[:, ::2].astype(np.uint32), values[:, 1::2].astype(np.uint32)
    rows = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=2)
    return rows.reshape(len(values), -1).astype(np.uint8)


def save(path: Path, values: "np.ndarray[Any, Any]", **options: Any) -> Path:
    Image.fromarray(values).save(path, **options)
    return path


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def big_endian(folder: Path) -> Path:
    return write(folder / "x.tif", tiff(grey(16), bits=16, big=True))


def white_is_zero(folder: Path) -> Path:
    return write(folder / "x.tif", tiff(65535 - grey(16), bits=16, photometric=0))


def maxval(maximum: int) -> Callable[[Path], Path]:
    """A PGM file, whose header gives the maximum."""
    values = np.round(RAMP * maximum).astype(">u2").tobytes()
    return lambda folder: write(folder / "x.pgm", b"P5 25 20 %d\n" % maximum + values)


WIDE: dict[str, Callable[[Path], Path]] = {
    "png of 16 bits": lambda folder: save(folder / "x.png", grey(16)),
    "tiff of 16 bits": lambda folder: save(folder / "x.tif", grey(16)),
    "compressed tiff of 16 bits": lambda folder: save(folder / "x.tif", grey(16), compression="tiff_lzw"),
    "tiff of 16 bits, big-endian": big_endian,
    "tiff of 16 bits, white is zero": white_is_zero,
    "jpeg 2000 of 16 bits": lambda folder: save(folder / "x.jp2", grey(16)),
    "pgm of 16 bits": maxval(65535),
    "pgm of 10 bits": maxval(1023),
    "png of 8 bits": lambda folder: save(folder / "x.png", grey(8)),
}


@pytest.mark.parametrize("make", WIDE.values(), ids=WIDE.keys())
def test_grey_values_of_any_defined_range_become_8_bits(make: Callable[[Path], Path], tmp_path: Path) -> None:
    image = read_rgb(make(tmp_path))
    assert (image.mode, image.size) == ("RGB", (25, 20))
    # Half a step of 8 bits for rounding, and as much for the ramp's own rounding.
    assert np.abs(np.asarray(image) - 255 * RAMP[:, :, None]).max() <= 1


def test_a_tiff_of_12_bits_is_scaled_by_its_own_maximum(tmp_path: Path) -> None:
    # An even width: two values share three bytes.
    values = np.round(RAMP[:, :24] * 4095).astype(np.uint16)
    content = bytearray(tiff(packed(values), bits=12))
    width = struct.pack("<HHII", 256, 4, 1, 36)
    content[content.index(width) : content.index(width) + 12] = struct.pack("<HHII", 256, 4, 1, 24)
    image = read_rgb(write(tmp_path / "x.tif", bytes(content)))
    assert np.abs(np.asarray(image) - 255 * RAMP[:, :24, None]).max() <= 1


UNDEFINED: dict[str, Callable[[Path], Path]] = {
    "float tiff in [0, 1]": lambda folder: save(folder / "x.tif", RAMP.astype(np.float32)),
    "float tiff in [0, 255]": lambda folder: save(folder / "x.tiff", (255 * RAMP).astype(np.float32)),
    "tiff of 32 bits": lambda folder: save(folder / "x.tif", grey(16).astype(np.int32)),
    "pfm": lambda folder: save(folder / "x.pfm", RAMP.astype(np.float32)),
}


@pytest.mark.parametrize("make", UNDEFINED.values(), ids=UNDEFINED.keys())
def test_values_without_a_defined_range_are_refused(make: Callable[[Path], Path], tmp_path: Path) -> None:
    with pytest.raises(UndefinedRangeError, match=r"pixels of mode [IF] \(\w+\) have no defined range"):
        read_rgb(make(tmp_path))


def palette(path: Path, **options: Any) -> Path:
    image = Image.new("P", (25, 20))
    image.putpalette([200, 100, 50, 10, 20, 30])
    image.save(path, **options)
    return path


def in_mode(mode: str, ending: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        Image.new("RGB", (25, 20), (200, 100, 50)).convert(mode).save(folder / f"x.{ending}", quality=100)
        return folder / f"x.{ending}"

    return make


COLOURED: dict[str, tuple[Callable[[Path], Path], tuple[int, int, int]]] = {
    "palette": (lambda folder: palette(folder / "x.gif"), (200, 100, 50)),
    "palette with a transparent colour": (lambda folder: palette(folder / "x.png", transparency=0), (200, 100, 50)),
    "palette with transparencies": (lambda folder: palette(folder / "x.png", transparency=b"\x80\xff"), (200, 100, 50)),
    "rgba": (in_mode("RGBA", "png"), (200, 100, 50)),
    "grey with transparency": (in_mode("LA", "png"), (124, 124, 124)),
    "cmyk jpeg": (in_mode("CMYK", "jpg"), (200, 100, 50)),
    "cmyk tiff": (in_mode("CMYK", "tif"), (200, 100, 50)),
    "ycbcr tiff": (in_mode("YCbCr", "tif"), (200, 100, 50)),
}


@pytest.mark.parametrize(("make", "colour"), COLOURED.values(), ids=COLOURED.keys())
def test_colours_of_every_mode_become_rgb_without_a_warning(
    make: Callable[[Path], Path], colour: tuple[int, int, int], tmp_path: Path
) -> None:
    path = make(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = read_rgb(path)
    assert image.mode == "RGB"
    # Half a step in each component of YCbCr is 1.4 steps of blue, 1.9 with its own rounding: a whole number of at most 1.
    assert np.abs(np.asarray(image).astype(int) - colour).max() <= 1


def test_one_bit_images_become_black_and_white(tmp_path: Path) -> None:
    image = read_rgb(save(tmp_path / "x.png", RAMP > 0.5))
    assert np.array_equal(np.asarray(image)[:, :, 0], np.where(RAMP > 0.5, 255, 0))


def test_the_first_of_several_images_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (9, 7), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert read_rgb(tmp_path / "x.gif").getpixel((3, 3)) == (250, 0, 0)


def test_the_content_of_a_file_decides_and_not_its_extension(tmp_path: Path) -> None:
    Image.new("RGB", (9, 7), (250, 0, 0)).save(tmp_path / "x.png")
    (tmp_path / "x.png").rename(tmp_path / "x.jpg")
    assert read_rgb(tmp_path / "x.jpg").getpixel((3, 3)) == (250, 0, 0)


def test_formats_that_another_program_would_have_to_render_are_not_read(tmp_path: Path) -> None:
    Image.new("RGB", (9, 7)).save(tmp_path / "x.eps")
    (tmp_path / "x.eps").rename(tmp_path / "x.png")
    with pytest.raises(Image.UnidentifiedImageError):
        read_rgb(tmp_path / "x.png")
    assert not {".eps", ".ps", ".wmf", ".emf", ".pdf", ".mpg", ".h5"} & ENDINGS


def test_the_extensions_of_the_formats_that_pillow_decodes_are_known() -> None:
    expected = {".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".jp2", ".ppm", ".pgm"}
    assert expected <= ENDINGS
    assert (".avif" in ENDINGS) == ("AVIF" in FORMATS)
