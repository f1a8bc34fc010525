"""What makes one publication of the objects of an export, when all of them are published."""
