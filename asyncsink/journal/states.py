"""Pure: the possible sequences of the steps of one key's multipart upload.

    none ──UploadCreating──► creating ──UploadOpened──► open ──UploadCompleting──► completing
      ▲                          │                      │ ▲ ▲                           │ │
      └── UploadGone ────────────┴──────────────────────┘ │ └── UploadPartStored ───────┘ │
                                                          └── UploadPartStored            └── UploadCompleting

A published object ends every state. UploadCreating is legal in every state: the caller has ended the upload that it
replaces. A part stored after Complete proves that Complete was refused (S3 API, CompleteMultipartUpload: InvalidPart,
EntityTooSmall); a run that resumes an upload sends Complete again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from asyncsink.errors import JournalError
from asyncsink.model import UploadCompleting, UploadCreating, UploadGone, UploadOpened, UploadPartStored, UploadStep

UploadState = Literal["none", "creating", "open", "completing"]

NEXT: Final[Mapping[UploadState, Mapping[type, UploadState]]] = {
    "none": {UploadCreating: "creating"},
    "creating": {UploadCreating: "creating", UploadOpened: "open", UploadGone: "none"},
    "open": {
        UploadCreating: "creating",
        UploadPartStored: "open",
        UploadCompleting: "completing",
        UploadGone: "none",
    },
    "completing": {
        UploadCreating: "creating",
        UploadPartStored: "open",
        UploadCompleting: "completing",
        UploadGone: "none",
    },
}
"""State, then step: the state after it. A missing combination is a bug of the caller."""


def after(state: UploadState, step: UploadStep) -> UploadState:
    """The state of a key's upload after `step`.

    Raises:
        JournalError: the step cannot follow the state; a bug, which would leave an unrecorded upload.
    """
    following = NEXT[state].get(type(step))
    if following is None:
        raise JournalError(
            f"{type(step).__name__} of {step.key!r} cannot follow the state {state!r} of its upload; expected one of "
            f"{', '.join(kind.__name__ for kind in NEXT[state])}. This is a bug in asyncsink; please report it."
        )
    return following
