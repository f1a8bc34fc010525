"""What to do about a failure, by the class of its error: one sentence for a person."""

from __future__ import annotations

from typing import Final

_AGAIN: Final = "Run the same command again: it sends what is missing, and nothing else."
_LOCAL: Final = "Look at the directory of the local copies: its permissions, and the space that is left."

_CURES: Final = {
    "AccessDenied": "Ask the bucket's owner for the permission that is named here, or use other credentials; then run "
    "the same command again.",
    "BucketMissing": "Create the bucket, or correct its name in the destination; then run the same command again.",
    "CredentialsError": "Renew the credentials, or name others; then run the same command again.",
    "ExpiredCredentials": "Renew the credentials (for SSO: log in again); then run the same command again.",
    "ClockSkew": "Set the clock of this machine (NTP); then run the same command again.",
    "WrongRegion": "Give the bucket's region; then run the same command again.",
    "Throttled": f"The server asked to slow down until the attempts were used up. {_AGAIN} A lower concurrency helps "
    "where it happens each time.",
    "ConnectionLost": f"The network or the server broke connections off. {_AGAIN}",
    "Stalled": f"The server took or gave no byte for too long. {_AGAIN} A lower concurrency helps on a slow line.",
    "RequestTimeout": f"The server waited too long for the content. {_AGAIN} A lower concurrency helps on a slow line.",
    "ServerFault": f"The server had a fault of its own. {_AGAIN} Its administrator finds the requests in its log.",
    "DestinationFull": "Make room at the destination, or raise the quota; then run the same command again.",
    "EntityTooLarge": "The server does not store objects of this size: cut the file, or use another server.",
    "PreconditionFailed": "Another writer changed the object at the same time: decide whose content counts.",
    "AlreadyThere": "An object of another writer is under this key: choose another destination, or allow overwriting.",
    "ObjectMissing": "The object is not there any more: list the source again.",
    "UploadMissing": f"The server does not know the multipart upload any more. {_AGAIN}",
    "UploadConflict": f"The multipart upload cannot be completed. {_AGAIN}",
    "PartsRefused": f"The server refused the parts of the upload. {_AGAIN}",
    "IntegrityError": f"What was stored is not what was sent; it does not count as published. {_AGAIN} Where it "
    "happens again, suspect the network, a proxy or the server's disks.",
    "SourceMissing": "The file is gone: make it again, or leave it out.",
    "SourceUnreadable": "Change the file's permissions, or leave it out; then run the same command again.",
    "SourceChanged": "The file was written to while it was being sent: wait for its writer, then run the same command "
    "again.",
    "InvalidKey": "Rename the file, or give a substitution that makes a legal key.",
    "KeyCollision": "Two files would get one key: rename one of them, or give a substitution.",
}


def cure_of(error: str, stage: str = "") -> str:
    """What to do about failures of the class `error` (a name from asyncsink.errors) at `stage` (see `Failure`)."""
    if stage == "local copy":
        return _LOCAL
    return _CURES.get(error, _AGAIN)
