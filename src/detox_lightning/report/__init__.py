"""The report of a test and the model card of an export."""
