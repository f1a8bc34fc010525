"""The grab: objects are listed, received, proven, and appear as files by rename."""
