"""What results say: medians and ratios, tables, targets, pictures."""
