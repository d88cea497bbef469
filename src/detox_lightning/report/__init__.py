"""The page that shows what came of it: figures, pictures, and what changed in the texts."""
