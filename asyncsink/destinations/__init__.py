"""Stages 4 and 5 of 6: put, and verify what was put. S3, a local directory, or memory behind one small protocol."""
