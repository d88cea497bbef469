"""The life of a run: its folders and checkpoints, how it ends and how it resumes."""
