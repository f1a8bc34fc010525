"""The engine with its ends exchanged: objects are listed, received, proven, and appear as files by rename."""
