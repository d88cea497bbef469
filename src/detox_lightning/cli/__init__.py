"""The command line: its parser, its configuration files, and LightningCLI with defaults."""
