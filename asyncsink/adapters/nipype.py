"""asyncsink in Nipype's place (extra "nipype").

    from asyncsink.adapters.nipype import DataSink, S3DataGrabber

    sink = Node(DataSink(base_directory="s3://bucket/prefix", encrypt_bucket_keys=True), name="sink")

`DataSink` and `S3DataGrabber` have the inputs and outputs of Nipype's own, and asyncsink's options as further inputs.
Where code cannot be edited, `install()` puts such with Nipype's inputs only in the place of those in
`nipype.interfaces.io`.

Nipype itself asks a server of its own for its newest version when the first interface is made. asyncsink adds nothing
to that and changes nothing of it: NIPYPE_NO_ET=1 (and NO_ET=1) in the environment, or Nipype's configuration
`check_version = false`, switches it off.
"""

from __future__ import annotations

try:
    import nipype as _nipype  # noqa: F401 - said once, and in words
except ImportError as error:
    raise ImportError(
        "asyncsink.adapters.nipype needs Nipype; install it with: pip install 'asyncsink[nipype]'"
    ) from error

from asyncsink.adapters.nipype_datasink import DataSink
from asyncsink.adapters.nipype_grabber import S3DataGrabber
from asyncsink.adapters.nipype_installed import install, uninstall

__all__ = ["DataSink", "S3DataGrabber", "install", "uninstall"]
