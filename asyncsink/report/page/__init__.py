"""The page of a run: one file of HTML (or JSON) that shows what a run did."""
