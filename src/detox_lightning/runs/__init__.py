"""The life of a run: its folders, its checkpoints, how it ends and how it goes on."""
