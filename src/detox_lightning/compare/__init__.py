"""A page in the browser that shows what the model writes before and after training."""
