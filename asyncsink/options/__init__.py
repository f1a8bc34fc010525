"""What a caller may say: names, parsing, and the settings that the other rooms are given."""
