"""Nipype's DataSink and S3DataGrabber on asyncsink (extra "nipype").

    from asyncsink.adapters.nipype import DataSink, S3DataGrabber

    sink = Node(DataSink(base_directory="s3://bucket/prefix", encrypt_bucket_keys=True), name="sink")

`DataSink` and `S3DataGrabber` have the inputs and outputs of Nipype's own, and asyncsink's options as further inputs.
Where code cannot be edited, `install()` replaces those in `nipype.interfaces.io`, with Nipype's inputs only.

Nipype itself asks its own server for its newest version when the first interface is made. asyncsink does not change
that: NIPYPE_NO_ET=1 (and NO_ET=1) in the environment, or `check_version = false` in Nipype's configuration, switches it
off.
"""

from __future__ import annotations

try:
    import nipype as _nipype  # noqa: F401 - imported here for one clear error where it is missing
except ImportError as error:
    raise ImportError(
        "asyncsink.adapters.nipype needs Nipype; install it with: pip install 'asyncsink[nipype]'"
    ) from error

from asyncsink.adapters.nipype_datasink import DataSink
from asyncsink.adapters.nipype_grabber import S3DataGrabber
from asyncsink.adapters.nipype_installed import install, uninstall

__all__ = ["DataSink", "S3DataGrabber", "install", "uninstall"]
