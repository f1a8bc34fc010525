"""The options: their table, parsing, and the validated settings for the other rooms."""
