"""The servers that contenders publish to."""
