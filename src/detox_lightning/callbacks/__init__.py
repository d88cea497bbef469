"""What happens around training: sample tables, exported folders, written predictions."""
