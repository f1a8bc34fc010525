"""Parts of a source that many machines publish: cutting, the files of a split, and the publishing of a part."""
