"""What came of it: metrics of responses, before and after."""
