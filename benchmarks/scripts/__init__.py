"""What a user of each library would write to publish a directory; each runs in a fresh process of its own."""
