"""The policies of the guide's page, on two servers that enforce policies."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import moto.settings
import pytest
from botocore.exceptions import ClientError

from tests.support.guide import GUIDE

PAGE = (GUIDE / "permissions.md").read_text(encoding="utf-8")
POLICIES = dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
ALL = ("Export", "Look", "Verify", "Abort uploads", "Bench")
UNKNOWN_TO_SEAWEEDFS = {"s3:ListMultipartUploadParts", "s3:ListBucketMultipartUploads"}
"""It refuses a policy with one of them."""


@dataclass
class Lab:
    """A server that enforces policies, and a bucket with a folder beside it."""

    name: str
    root: dict[str, str]
    bucket: str
    folder: Path
    run: Callable[..., Any]
    patch: pytest.MonkeyPatch
    keep_secret: Callable[[str], str]

    def client(self, kind: str, **keys: str) -> Any:
        return closing(boto3.client(kind, region_name="us-east-1", **(self.root | keys)))

    def policy(self, section: str, *, without: str = "") -> dict[str, Any]:
        """The policy of a section for this bucket, without one of its actions, and those that the server refuses."""
        told = json.loads(POLICIES[section].replace("my-bucket", self.bucket))
        left_out = {without} | (UNKNOWN_TO_SEAWEEDFS if self.name == "seaweedfs" else set())
        for statement in told["Statement"]:
            statement["Action"] = [action for action in statement["Action"] if action not in left_out]
        return {**told, "Statement": [statement for statement in told["Statement"] if statement["Action"]]}

    def user(self, policy: dict[str, Any]) -> dict[str, str]:
        """A new user's environment."""
        name = f"user-{uuid.uuid4().hex[:12]}"
        with self.client("iam") as iam:
            iam.create_user(UserName=name)
            if policy["Statement"]:
                iam.put_user_policy(UserName=name, PolicyName="page", PolicyDocument=json.dumps(policy))
            key = iam.create_access_key(UserName=name)["AccessKey"]
        keys = {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}
        self.keep_secret(key["SecretAccessKey"])
        with self.client("s3", **keys) as client:
            while self._is_unknown(client):  # SeaweedFS learns of it in a moment
                pass
        environment = {name.upper(): value for name, value in keys.items()}
        return environment | {
            "AWS_ENDPOINT_URL": self.root["endpoint_url"],
            "AWS_REGION": "us-east-1",
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            "XDG_STATE_HOME": str(self.folder / name),
            "NO_COLOR": "1",
        }

    def _is_unknown(self, client: Any) -> bool:
        try:
            client.list_objects_v2(Bucket=self.bucket)
        except ClientError as error:
            return bool(error.response["Error"]["Code"] == "InvalidAccessKeyId")
        return False

    def __call__(self, policy: dict[str, Any], *words: object) -> tuple[int, str]:
        """How a command ends for a user with this policy, and what is told."""
        environment = self.user(policy)
        with self.patch.context() as enforced:
            enforced.setattr(moto.settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0 if self.name == "moto" else float("inf"))
            done = self.run(*words, env=environment, cwd=self.folder)
        told = (done.stdout + done.stderr).decode()
        return done.returncode, re.sub(r"asyncsink: note: The server ignores CRC64NVME[^\n]*\n", "", told)  # moto does

    def export(self, policy: dict[str, Any], place: str) -> tuple[int, str]:
        words = ("export", "source", f"s3://{self.bucket}/study/{place}", "--no-journal")
        return self(policy, *words, "--manifest", f"{place}.jsonl")


@pytest.fixture(params=["seaweedfs", "moto"])
def lab(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    run_inside: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    keep_secret: Callable[[str], str],
) -> Iterator[Lab]:
    """Files of both kinds: one whole, one in parts."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "small.txt").write_bytes(b"small")
    (tmp_path / "source" / "large.nii").write_bytes(bytes(range(256)) * 36_000)
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
    if request.param == "moto":
        url, bucket = request.getfixturevalue("moto_url"), f"bucket-{uuid.uuid4().hex[:12]}"
    else:
        server, bucket = request.getfixturevalue("seaweed"), request.getfixturevalue("bucket")
        url = server.endpoint_url
        keys = {"aws_access_key_id": server.access_key_id, "aws_secret_access_key": server.secret_access_key}
    root = {"endpoint_url": url, **keys}
    lab = Lab(request.param, root, bucket, tmp_path, run_inside, monkeypatch, keep_secret)
    if request.param == "moto":
        with lab.client("s3") as client:
            client.create_bucket(Bucket=bucket)
    return lab


def test_the_page_has_a_policy_for_each_kind_of_command() -> None:
    assert sorted(POLICIES) == sorted(ALL)


def test_the_policy_of_an_export_is_enough_and_each_action_is_for_what_the_page_says(lab: Lab) -> None:
    enough = lab.policy("Export")
    code, told = lab.export(enough, "one")
    assert (code, "note:" in told) == (0, False), told
    code, told = lab.export(enough, "one")
    assert (code, "nothing had to be sent" in told, "note:" in told) == (0, True, False), told
    code, told = lab.export(lab.policy("Export", without="s3:PutObject"), "two")
    assert (code, "AccessDenied" in told) == (1, True), told
    code, told = lab.export(lab.policy("Export", without="s3:GetObject"), "one")
    assert (code, "HEAD is denied" in told) == (0, True), told
    if lab.name != "moto":  # see below
        code, told = lab.export(lab.policy("Export", without="s3:ListBucket"), "one")
        assert (code, "may be written to but not listed" in told) == (0, True), told


def test_a_deletion_needs_its_own_action_besides(lab: Lab) -> None:
    more = lab.policy("Export")
    more["Statement"][0]["Action"].append("s3:DeleteObject")
    assert lab.export(more, "one")[0] == 0
    (lab.folder / "source" / "small.txt").unlink()
    words = ("export", "source", f"s3://{lab.bucket}/study/one", "--no-journal", "--delete-extraneous", "--yes")
    code, told = lab(lab.policy("Export"), *words)
    assert (code, "AccessDenied" in told) == (1, True), told
    if lab.name != "moto":  # which asks for the action on the bucket, not on the keys
        code, told = lab(more, *words)
        assert code == 0, told


def test_to_put_is_enough_for_a_drop_box_and_not_outside_of_its_prefix(lab: Lab) -> None:
    if lab.name == "moto":
        pytest.skip("moto answers 500 to a part of an unknown upload, by which asyncsink asks whether it may write")
    resource = f"arn:aws:s3:::{lab.bucket}/study/*"
    statement = {"Effect": "Allow", "Action": ["s3:PutObject"], "Resource": resource}
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    code, told = lab.export(policy, "drop")
    assert (code, "All 2 files" in told) == (0, True), told
    code, told = lab(policy, "export", "source", f"s3://{lab.bucket}/other", "--no-journal")
    assert (code, "AccessDenied" in told) == (2, True), told


def test_the_policies_of_readers_are_enough_and_needed(lab: Lab) -> None:
    assert lab.export(lab.policy("Export"), "x")[0] == 0
    place = f"s3://{lab.bucket}/study/x"
    readers: dict[tuple[str, ...], str] = {
        ("plan", "source", place): "Look",
        ("check", "source", place): "Look",
        ("grab", place, "copy"): "Look",
        ("verify", "x.jsonl"): "Verify",
        ("verify", "x.jsonl", "--read-back"): "Verify",
    }
    for words, section in readers.items():
        code, told = lab(lab.policy(section), *words)
        assert (code, "note:" in told) == (0, False), (words, told)
    assert lab(lab.policy("Look", without="s3:ListBucket"), "grab", place, "other")[0] == 2
    assert lab(lab.policy("Look", without="s3:ListBucket"), "grab", f"{place}/small.txt", "other")[0] == 0
    assert lab(lab.policy("Look", without="s3:GetObject"), "grab", place, "third")[0] == 1
    assert lab(lab.policy("Verify", without="s3:GetObject"), "verify", "x.jsonl")[0] == 1


def test_the_policy_of_a_measurement_is_enough_and_each_action_is_needed(lab: Lab) -> None:
    if lab.name == "moto":
        pytest.skip("as above: the policy has no s3:ListBucket")
    words = ("bench", f"s3://{lab.bucket}/study", "--mix", "put:80,get:20", "--sizes", "1KiB", "--ramp", "1")
    words = (*words, "--seconds", "0.5", "--cleanup")
    code, told = lab(lab.policy("Bench"), *words)
    assert code == 0, told
    for action in ("s3:PutObject", "s3:GetObject", "s3:DeleteObject"):
        code, told = lab(lab.policy("Bench", without=action), *words)
        assert code != 0, (action, told)


def test_the_policy_of_abort_uploads_is_enough_and_each_action_is_needed(lab: Lab) -> None:
    if lab.name == "seaweedfs":
        with pytest.raises(ClientError, match="not a valid action"):
            lab.user(json.loads(POLICIES["Abort uploads"]))
        return
    words = ("abort-uploads", f"s3://{lab.bucket}/study", "--older-than", "0s")
    with lab.client("s3") as client:
        client.create_multipart_upload(Bucket=lab.bucket, Key="study/open")
    actions = ("s3:AbortMultipartUpload", "s3:ListMultipartUploadParts", "s3:ListBucketMultipartUploads")
    for action in actions:
        code, told = lab(lab.policy("Abort uploads", without=action), *words)
        assert (code, "AccessDenied" in told) == (2 if "Bucket" in action else 1, True), (action, told)
    least = lab.policy("Abort uploads", without="s3:ListMultipartUploadParts")
    assert lab(least, *words, "--dry-run")[0] == 0
    assert lab(lab.policy("Abort uploads"), *words)[0] == 0
    with lab.client("s3") as client:
        assert "Uploads" not in client.list_multipart_uploads(Bucket=lab.bucket)
