"""The states of an upload: what may follow what, and what the tables hold after every legal history."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsink.errors import JournalError
from asyncsink.journal.base import SCHEMA, OptionsDigests, PublishedRow, Rows, published_row
from asyncsink.journal.states import NEXT, UploadState, after
from asyncsink.model import (
    Checksum,
    SourceFile,
    StoredPart,
    Transfer,
    UploadCompleting,
    UploadCreating,
    UploadGone,
    UploadOpened,
    UploadPartStored,
    UploadStep,
)
from asyncsink.options.schema import ObjectOptions

KEYS = ("study/a", "study/b", "study/\udcff")
SOURCES = (SourceFile("/data/a", 1, 2, ctime_ns=3, inode=4), SourceFile("/data/\udcff", 1, 2, ctime_ns=3, inode=5))
PARTS = [StoredPart(number, etag, Checksum("CRC32", etag)) for number in (1, 2, 10_000) for etag in ("x", "y")]

STEPS = st.sampled_from(KEYS).flatmap(
    lambda key: st.one_of(
        st.sampled_from(SOURCES).map(lambda source: UploadCreating(key, source, 8 << 20, "CRC32", "token")),
        st.sampled_from(("u1", "u2")).map(lambda upload_id: UploadOpened(key, upload_id)),
        st.sampled_from(PARTS).map(lambda part: UploadPartStored(key, part)),
        st.just(UploadCompleting(key)),
        st.just(UploadGone(key)),
        st.sampled_from(SOURCES).map(lambda source: Published(key, source)),
    )
)


@dataclass
class Published:
    """What is written down where an object was confirmed."""

    key: str
    source: SourceFile

    @property
    def row(self) -> PublishedRow:
        return published_row(Transfer(self.source, self.key, ""), "etag", "", None)


@dataclass
class Upload:
    """What a journal should know about one upload."""

    source: SourceFile
    upload_id: str = ""
    completing: bool = False
    parts: dict[int, StoredPart] = field(default_factory=dict)


class Expected:
    """A journal as it is described, in plain dictionaries."""

    def __init__(self) -> None:
        self.uploads: dict[str, Upload] = {}
        self.published: dict[str, SourceFile] = {}

    def legal(self, step: UploadStep | Published) -> bool:
        upload = self.uploads.get(step.key)
        match step:
            case UploadCreating() | Published():
                return True
            case UploadOpened():
                return upload is not None and not upload.upload_id
            case UploadGone():
                return upload is not None
            case _:
                return upload is not None and bool(upload.upload_id)

    def take(self, step: UploadStep | Published) -> None:
        match step:
            case UploadCreating():
                self.uploads[step.key] = Upload(step.source)
            case UploadOpened():
                self.uploads[step.key].upload_id = step.upload_id
            case UploadPartStored():
                self.uploads[step.key].parts[step.part.part_number] = step.part
                self.uploads[step.key].completing = False
            case UploadCompleting():
                self.uploads[step.key].completing = True
                self.published.pop(step.key, None)
            case UploadGone():
                del self.uploads[step.key]
            case Published():
                self.uploads.pop(step.key, None)
                self.published[step.key] = step.source


def test_every_state_is_reached_and_left() -> None:
    reached = {state for row in NEXT.values() for state in row.values()}
    assert reached == set(NEXT)
    open_states: list[UploadState] = ["creating", "open", "completing"]
    for state in open_states:
        assert after(state, UploadGone("k")) == "none"
    assert after("open", UploadCompleting("k")) == "completing"


@pytest.mark.parametrize(
    ("state", "step"),
    [
        ("none", UploadOpened("k", "u")),
        ("none", UploadGone("k")),
        ("creating", UploadPartStored("k", PARTS[0])),
        ("creating", UploadCompleting("k")),
        ("open", UploadOpened("k", "u")),
    ],
)
def test_a_part_never_comes_before_its_upload(state: UploadState, step: UploadStep) -> None:
    with pytest.raises(JournalError, match=rf"{type(step).__name__} of 'k' cannot follow the state '{state}'.*bug"):
        after(state, step)


@given(st.lists(STEPS, max_size=30))
def test_the_tables_hold_what_happened(history: list[UploadStep | Published]) -> None:
    """Real SQLite, and a model of dictionaries: an illegal step changes nothing, a legal one what it says."""
    database = sqlite3.connect(":memory:", isolation_level=None)
    for statement in SCHEMA:
        database.execute(statement)
    rows, expected = Rows(database, OptionsDigests(ObjectOptions(), None, b"salt")), Expected()
    for step in history:
        write = [[step.row]] if isinstance(step, Published) else [step]
        if expected.legal(step):
            rows.write(write)
            expected.take(step)
        else:
            with pytest.raises(JournalError):
                rows.write(write)
    for source in SOURCES:
        for key, known in zip(KEYS, rows.known([Transfer(source, key, "") for key in KEYS]), strict=True):
            upload = expected.uploads.get(key)
            same = expected.published.get(key) == source
            assert (known is not None) == (key in expected.published or upload is not None)
            if known is None:
                continue
            assert known.published == same
            assert known.stale == (key in expected.published and not same)
            assert (known.upload is None) == (upload is None)
            if known.upload is not None and upload is not None:
                assert known.upload.upload_id == upload.upload_id
                assert known.upload.completing == upload.completing
                assert known.upload.same_source == (upload.source == source)
                assert list(known.upload.parts) == [upload.parts[number] for number in sorted(upload.parts)]
    left = database.execute("SELECT count(*) FROM part WHERE key NOT IN (SELECT key FROM upload)").fetchone()
    assert left == (0,)
    database.close()
