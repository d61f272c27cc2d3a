"""A seeded generator of realistic rows of a city's traffic-sign inventory.

The rows contain what real exports contain and careless readers get wrong: quoted commas and doubled quotes,
empty and blank-padded fields, non-Latin UTF-8, notes with a line break inside quotes, and whole lines that
occur twice. Values follow Zipf's law, as in public inventories: a few categories and posts make up most
signs.

Each row depends only on the seed and its number (SplitMix64, Steele et al. 2014, section 3). So the same seed
gives the same bytes on every machine, and a smaller file is a prefix of a larger one. Fields are drawn into
pools of prepared pieces, and rows are joined from these column by column: a million rows take about a second.
"""

from __future__ import annotations

import argparse
import bisect
import random
import sys
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

COLUMNS = (
    "OBJECTID,Sign_Type,Size,Sign_Text,Material,Sign_Post,Location,Category,Notes,Mount,Street,X,Y".split(",")
)
ROWS_PER_CHUNK = 8192
POOL_SIZE = 1 << 15
NEWLINE_NOTE_RATE = 0.0005
# One row in a hundred repeats an earlier line, which is at most this many rows above it.
DUPLICATE_ONE_IN = 100
DUPLICATE_REACH_ROWS = 1000

Words = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]

# Each list is ordered by frequency; the number beside a list is the exponent of its Zipf distribution.
SIGN_TYPES = (
    "No Parking|Streetname|Stop|Speed Limit|No Outlet|Yield|One Way|Keep Right|School Crossing|Dead End|"
    "Curve Right|Curve Left|Do Not Enter|Loading Zone|Bus Only|Object Marker 3|Signal Ahead|Merge|"
    "No Turn On Red|Handicap Parking|Streetname - Mast Arm|Bike Lane|Stop, All Way|Detour"
).split("|")
SIZES = '12" X 18"|30" X 30"|24" X 24"|16" X 42"|18" X 24"|36" X 36"|9" X 36"| |24" X 30"|6" X 18"'.split("|")
SIGN_TEXTS = (
    '||| |4-Way|Ahead|30 mph|2 Hour, 8am-5pm|Except Sunday|"Cross Traffic"|Arrow Down|I-74|20 mph'
).split("|")
MATERIALS = "Aluminum|HIP|Diamond|Engineer| |Plywood|Steel".split("|")
SIGN_POSTS = (
    "Punched Telespar|Unpunched Telespar|Wood|U-Channel|Light Pole|Traffic Signal Mast Arm|Utility Pole|"
    "Round Post|Square Post|Fence|Building|Bridge|Guardrail|Decorative, Black| |Unknown"
).split("|")
LOCATIONS = "NE Corner|NW Corner|SE Corner|SW Corner|Median|Mid Block|Island|AERIAL|".split("|")
CATEGORIES = (
    "Regulatory|Streetname|Parking|Warning|School||Object Marker|Custom|Guide|Pedestrian|Bicycle|"
    "Construction|Railroad, Crossing|Route|Transit|MTD|Évacuation|Hospital|Park|Temporary"
).split("|")
NOTES = (
    '||||| | |faded|OK|bent, needs repair|replaced 2015|"graffiti", cleaned|leaning|señal dañada|'
    "見えにくい|sticker 🚧|  check  |hit by truck, reset"
).split("|")
NEWLINE_NOTES = ("moved 2014\nnew post", "see photo,\nrow 2", 'says "no"\n\nsigned: Zoë')
MOUNTS = "Single|Double|Bracket|Band|Span Wire|".split("|")
STREETS = (
    "N Market St|W Church St|S Neil St|E Green St|W Kirby Ave|N Prospect Ave|W Springfield Ave|S First St|"
    "Mercury Dr|Peñarol Blvd|Rue de l'Église|W Bradley Ave|Café Ln|東京通り|Duncan Rd|Hedge Rd, North|"
    "O'Malley's Alley|Staley Rd|Ünal Way|Curtis Rd|Windsor Rd|Fox Dr 🦊|St. Mary's Rd|\"Old\" Route 10"
).split("|")


def quoted(value: str) -> str:
    """Returns ``value`` as a CSV field with no more quotes than needed."""
    if any(char in value for char in ',"\r\n'):
        return '"' + value.replace('"', '""') + '"'
    return value


class _Column:
    """Draws the values of one column by Zipf's law."""

    def __init__(self, values: Sequence[str], exponent: float) -> None:
        self.fields = [quoted(value) for value in values]
        # Whole numbers, so that rounding is the same everywhere.
        weights = [int(1_000_000 / (rank + 1) ** exponent) for rank in range(len(values))]
        self.bounds = list(accumulate(weights))

    def draw(self, chance: random.Random) -> str:
        """Returns one field."""
        return self.fields[bisect.bisect_right(self.bounds, chance.randrange(self.bounds[-1]))]


class _Pools:
    """Prepared pieces of rows for one seed."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(f"citysigns:{seed}")
        sign = [_Column(SIGN_TYPES, 0.9), _Column(SIZES, 0.8), _Column(SIGN_TEXTS, 0.7)]
        sign.append(_Column(MATERIALS, 1.2))
        post = [_Column(SIGN_POSTS, 1.05), _Column(LOCATIONS, 0.3), _Column(CATEGORIES, 1.0)]
        notes, place = _Column(NOTES, 0.4), [_Column(MOUNTS, 0.8), _Column(STREETS, 0.5)]
        self.sign = _strings([self._piece(sign, chance) for _ in range(POOL_SIZE)])
        posts = []
        for number in range(POOL_SIZE):
            note = notes.draw(chance)
            if number < POOL_SIZE * NEWLINE_NOTE_RATE:
                note = quoted(NEWLINE_NOTES[number % len(NEWLINE_NOTES)])
            posts.append(f"{self._piece(post, chance)}{note},{self._piece(place, chance)}")
        self.post = _strings(posts)
        self.x = _strings([f"-{_decimal(chance, 9_820_000, 9_829_999)}," for _ in range(POOL_SIZE)])
        self.y = _strings([f"{_decimal(chance, 4_878_000, 4_889_999)}\n" for _ in range(POOL_SIZE)])

    @staticmethod
    def _piece(columns: Sequence[_Column], chance: random.Random) -> str:
        return "".join(f"{column.draw(chance)}," for column in columns)


def _decimal(chance: random.Random, low: int, high: int) -> str:
    return f"{chance.randint(low, high)}.{chance.randrange(100):02d}"


def _strings(values: list[str]) -> Any:
    return pa.array(values, pa.string())


def _mix(seed: int, lane: int, numbers: Words) -> Words:
    """Returns 64 well-mixed bits for each number; ``lane`` separates independent draws."""
    start = np.uint64((seed * 0xD1342543DE82EF95 + lane * 0x632BE59BD9B4E019) & 0xFFFF_FFFF_FFFF_FFFF)
    mixed = numbers * np.uint64(0x9E3779B97F4A7C15) + start
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _originals(seed: int, numbers: Indices) -> Indices:
    """Returns for each row the number of the row whose line it has: its own, unless it is a duplicate."""
    resolved = numbers.copy()
    pending = np.arange(len(numbers))
    while len(pending):
        bits = _mix(seed, 0, resolved[pending].astype(np.uint64))
        repeats = (bits % np.uint64(DUPLICATE_ONE_IN) == 0) & (resolved[pending] > 0)
        pending, bits = pending[repeats], bits[repeats]
        reach = np.minimum(resolved[pending], DUPLICATE_REACH_ROWS).astype(np.uint64)
        back = (bits >> np.uint64(20)) % np.maximum(reach, np.uint64(1)) + np.uint64(1)
        resolved[pending] -= back.astype(np.int64)
    return resolved


def _chunk(pools: _Pools, seed: int, first: int, count: int) -> bytes:
    originals = _originals(seed, np.arange(first, first + count, dtype=np.int64))
    words = originals.astype(np.uint64)

    def pick(pool: Any, lane: int) -> Any:
        return pool.take(pa.array((_mix(seed, lane, words) % np.uint64(POOL_SIZE)).astype(np.int32)))

    identity = pc.binary_join_element_wise(pc.cast(pa.array(originals + 1), pa.string()), "", ",")
    pieces = [identity, pick(pools.sign, 1), pick(pools.post, 2), pick(pools.x, 3), pick(pools.y, 4)]
    rows = pc.binary_join_element_wise(*pieces, "")
    _, offsets, data = rows.buffers()
    ends = np.frombuffer(offsets, np.int32, count + 1, 0)
    return bytes(memoryview(data)[: int(ends[-1])])


def generate(rows: int, seed: int) -> Iterator[bytes]:
    """Yields the header line and ``rows`` rows as CSV in UTF-8, in pieces of about 1 MiB that end with a row.

    Raises:
        ValueError: ``rows`` is negative.
    """
    if rows < 0:
        raise ValueError(f"rows must not be negative, found {rows}")
    yield (",".join(COLUMNS) + "\n").encode()
    pools = _Pools(seed)
    for first in range(0, rows, ROWS_PER_CHUNK):
        yield _chunk(pools, seed, first, min(ROWS_PER_CHUNK, rows - first))


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes a file of rows; returns the exit status."""
    parser = argparse.ArgumentParser("python -m ops.demo.citysigns", description="write traffic-sign rows")
    parser.add_argument("--rows", type=int, required=True, help="number of rows below the header")
    parser.add_argument("--seed", type=int, default=1, help="same seed, same bytes (default 1)")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    options = parser.parse_args(arguments)
    if options.rows < 0:
        parser.error("--rows must not be negative")
    with options.out.open("wb") as target:
        for piece in generate(options.rows, options.seed):
            target.write(piece)
    return 0


if __name__ == "__main__":
    sys.exit(main())
