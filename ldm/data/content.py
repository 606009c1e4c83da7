"""What a data set is, wherever it lies: the files of its pictures in their order, with what is said of each."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

from ldm.data.parts import chunks
from ldm.data.record import Listing, Record

READERS = 8  # threads; each waits for its disk, and hashing lets the others run


def content_of(listing: Listing) -> str:
    """SHA-256 over every picture's file and row, in order; where the files lie and when they changed is no part of it.

    All files are read, and none is decoded. One that cannot be read counts as such: training names it and leaves it
    out, as it does one that cannot be decoded.
    """
    whole = hashlib.sha256()
    with ThreadPoolExecutor(READERS) as pool:
        for records in chunks(iter(listing.records)):
            for record, picture in zip(records, pool.map(_picture, records), strict=True):
                row = [picture, dict(record.columns)]
                whole.update(json.dumps(row, sort_keys=True, default=str).encode())
    return whole.hexdigest()


def _picture(record: Record) -> str | None:
    try:
        return hashlib.sha256(record.read()).hexdigest()
    except (OSError, ValueError):
        return None
