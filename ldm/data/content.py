"""What a data set is, wherever it lies: the files of its pictures in their order, with what is said of each."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

from ldm.data.parts import chunks
from ldm.data.record import Listing, Record

READERS = 8  # threads; each waits for its disk, and hashing lets the others run
READ = 2000  # pictures whose files are read whole; with more a run would begin late


def content_of(listing: Listing, read: int = READ) -> str:
    """SHA-256 over every picture's file and row, in order; where the files lie and when they changed is no part of it.

    Up to `read` files, spread evenly, are read; of the others the size counts. None is decoded. One that cannot be read
    counts as such: training names it and leaves it out, as it does one that cannot be decoded.
    """
    whole, apart = hashlib.sha256(), max(1, -(-len(listing.records) // read))
    with ThreadPoolExecutor(READERS) as pool:
        for records in chunks(enumerate(listing.records)):
            pictures = pool.map(lambda numbered: _picture(numbered[1], numbered[0] % apart == 0), records)
            for (_, record), picture in zip(records, pictures, strict=True):
                row = [picture, dict(record.columns)]
                whole.update(json.dumps(row, sort_keys=True, default=str).encode())
    return whole.hexdigest()


def _picture(record: Record, read: bool) -> str | int | None:
    try:
        if read:
            return hashlib.sha256(record.read()).hexdigest()
        return record.path.stat().st_size if record.inside is None else str(record.inside)
    except (OSError, ValueError):
        return None
